"""Multiply-adds, channels and error bounds of every layer, summed over batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from haste_compiler.errors import ValidationError
from haste_compiler.haste.macs import MacCount
from haste_compiler.passes.capture import capture
from haste_compiler.validation.batches import Batch
from haste_compiler.validation.macs import OperatorMacs, operator_macs
from haste_compiler.validation.protocol import Compiled, Stats
from haste_compiler.validation.report import Channels, LayerReport
from haste_compiler.validation.running import fresh_copy


@dataclass
class _Layer:
    kind: str
    macs: MacCount = field(default_factory=MacCount)
    channels: Channels | None = None
    bound: float | None = None


class LayerTally:
    """Collects what every layer did.

    What the dense network takes is counted on the model itself, not taken from the compiled network's word.

    Args:
        model: the original, in evaluation mode.
        compiled: the compiled network.
    """

    def __init__(self, model: nn.Module, compiled: Compiled) -> None:
        self._model, self._compiled = model, compiled
        self._operators: dict[Any, list[OperatorMacs]] = {}
        self._layers: dict[str, _Layer] = {}

    def add(self, batch: Batch) -> None:
        """Count one batch.

        Raises:
            CaptureError: the model cannot be captured.
            ValidationError: the compiled network's statistics name a layer that the model does not have, or do not fit
                it.
        """
        if batch.signature not in self._operators:
            graph = capture(self._model, fresh_copy(batch.inputs)).gm
            self._operators[batch.signature] = operator_macs(graph)
        stats = dict(self._compiled.stats(*fresh_copy(batch.inputs)))
        for operator in self._operators[batch.signature]:
            layer = self._layers.setdefault(operator.layer, _Layer(operator.kind))
            own = stats.pop(operator.layer, None)
            if own is None:
                layer.macs += MacCount(dense=operator.macs, convolution=operator.macs)
            else:
                _check(operator, own)
                _add(layer, own)
        if stats:
            raise ValidationError(f"the compiled network has HASTE layers that the model has not: {', '.join(stats)}")

    def total(self) -> MacCount:
        """Multiply-adds of the whole network."""
        return sum((layer.macs for layer in self._layers.values()), MacCount())

    def reports(
        self, seconds: Mapping[str, float] | None, dense_seconds: Mapping[str, float] | None
    ) -> tuple[LayerReport, ...]:
        """One report a layer, in the order in which they run.

        Args:
            seconds: time by layer, if it was measured.
            dense_seconds: time by layer in the dense compile.
        """
        reasons = {layer.name: layer.reason for layer in self._compiled.layers}
        return tuple(
            LayerReport(
                name=name,
                kind=layer.kind,
                reason=reasons.get(name, ""),
                macs=layer.macs,
                channels=layer.channels,
                error_bound=layer.bound,
                seconds=(seconds or {}).get(name),
                dense_seconds=(dense_seconds or {}).get(name),
            )
            for name, layer in self._layers.items()
        )


def _check(operator: OperatorMacs, stats: Stats) -> None:
    if stats.macs.dense != operator.macs:
        raise ValidationError(
            f"{operator.layer}: the compiled network counts {stats.macs.dense} dense multiply-adds, "
            f"the model has {operator.macs}"
        )
    counts = np.asarray(stats.counts)
    rows, columns = stats.geometry.patch_grid
    singles, _, members, zeros, flats, _ = _sum(counts)
    channels = stats.images * rows * columns * stats.geometry.in_channels
    if counts.min(initial=0) < 0 or singles + members + zeros + flats != channels:
        raise ValidationError(
            f"{operator.layer}: the compiled network accounts for {singles + members + zeros + flats} channels of "
            f"patches, of {channels}"
        )


def _sum(counts: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Counts (..., 6) of all patches and conv groups together."""
    return tuple(int(count) for count in counts.reshape(-1, counts.shape[-1]).sum(axis=0, dtype=np.int64))


def _add(layer: _Layer, stats: Stats) -> None:
    singles, groups, members, zeros, flats, _ = _sum(np.asarray(stats.counts))
    before = layer.channels or Channels(0, 0, 0)
    layer.kind = "haste"
    layer.macs += stats.macs
    layer.channels = Channels(
        before.kept + singles + groups, before.merged + members - groups, before.skipped + zeros + flats
    )
    # Patches and convolution groups write different outputs: their errors' squares add up.
    squares = np.square(np.asarray(stats.bound, dtype=np.float64).reshape(max(stats.images, 1), -1)).sum(axis=1)
    worst = float(np.sqrt(squares.max(initial=0.0)))
    # Kept where it is NaN, too: a bound that is not known must not look like a small one.
    layer.bound = worst if layer.bound is None else float(np.maximum(layer.bound, worst))
