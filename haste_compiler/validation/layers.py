"""Multiply-adds, channels and error bounds of every layer, summed over batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from haste_compiler.errors import ValidationError
from haste_compiler.graph.capture import capture
from haste_compiler.methods.haste.macs import MacCount
from haste_compiler.validation.batches import Batch
from haste_compiler.validation.macs import OperatorMacs, operator_macs
from haste_compiler.validation.protocol import Compiled, Stats
from haste_compiler.validation.report import Channels, LayerReport
from haste_compiler.validation.running import fresh_copy


@dataclass(frozen=True)
class _Layer:
    kind: str
    macs: MacCount
    channels: Channels | None = None
    bound: float | None = None

    def __add__(self, other: _Layer) -> _Layer:
        channels = [each.channels for each in (self, other) if each.channels is not None]
        bounds = [each.bound for each in (self, other) if each.bound is not None]
        return _Layer(
            "haste" if "haste" in (self.kind, other.kind) else self.kind,
            self.macs + other.macs,
            sum(channels[1:], channels[0]) if channels else None,
            # Kept where it is NaN, too: a bound that is not known must not look like a small one.
            float(np.max(bounds)) if bounds else None,
        )


class LayersFound(NamedTuple):
    """What one process counted.

    Attributes:
        layers: by name, in the order in which they run.
        reasons: of the convolutions, why they merge, or not.
        merged: the names of the HASTE layers, for each input signature.
    """

    layers: dict[str, _Layer]
    reasons: dict[str, str]
    merged: dict[Any, tuple[str, ...]]


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
        self._reasons: dict[str, str] = {}
        self._merged: dict[Any, tuple[str, ...]] = {}

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
        self._reasons = self._reasons or {layer.name: layer.reason for layer in self._compiled.layers}
        self._merged.setdefault(batch.signature, tuple(stats))
        for operator in self._operators[batch.signature]:
            own = stats.pop(operator.layer, None)
            if own is None:
                layer = _Layer(operator.kind, MacCount(dense=operator.macs, convolution=operator.macs))
            else:
                _check(operator, own)
                layer = _of_stats(own)
            before = self._layers.get(operator.layer)
            self._layers[operator.layer] = layer if before is None else before + layer
        if stats:
            raise ValidationError(f"the compiled network has HASTE layers that the model has not: {', '.join(stats)}")

    def found(self) -> LayersFound:
        """What was counted, as plain data."""
        return LayersFound(self._layers, self._reasons, self._merged)

    def join(self, found: Iterable[LayersFound]) -> None:
        """Take in place of the own count the sum of several processes' counts, this one's among them.

        Raises:
            ValidationError: for inputs of the same shapes some merge in other layers than the others.
        """
        self._layers, self._reasons, self._merged = {}, {}, {}
        for each in found:
            for signature, names in each.merged.items():
                if self._merged.setdefault(signature, names) != names:
                    raise ValidationError(
                        "the processes chose different layers to merge: their cost models differ. Give them one cache, "
                        "a configuration without cost model, or one saved network"
                    )
            self._reasons = self._reasons or each.reasons
            for name, layer in each.layers.items():
                self._layers[name] = self._layers[name] + layer if name in self._layers else layer

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
        return tuple(
            LayerReport(
                name=name,
                kind=layer.kind,
                reason=self._reasons.get(name, ""),
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


def _of_stats(stats: Stats) -> _Layer:
    singles, groups, members, zeros, flats, _ = _sum(np.asarray(stats.counts))
    # Patches and convolution groups write different outputs: their errors' squares add up.
    squares = np.square(np.asarray(stats.bound, dtype=np.float64).reshape(max(stats.images, 1), -1)).sum(axis=1)
    channels = Channels(singles + groups, members - groups, zeros + flats)
    return _Layer("haste", stats.macs, channels, float(np.sqrt(squares.max(initial=0.0))))
