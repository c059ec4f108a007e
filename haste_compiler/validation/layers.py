"""Multiply-adds, channels and error bounds of every layer, summed over batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from haste_compiler.errors import ValidationError
from haste_compiler.graph.capture import capture
from haste_compiler.methods.layers import ConvLayer
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.products import OperatorMacs, operator_macs
from haste_compiler.methods.registry import names
from haste_compiler.methods.statistics import LayerStatistics, Tally
from haste_compiler.validation.batches import Batch
from haste_compiler.validation.protocol import Compiled
from haste_compiler.validation.report import LayerReport
from haste_compiler.validation.running import fresh_copy


@dataclass(frozen=True)
class _Layer:
    kind: str
    macs: MacCount
    tally: Tally | None = None
    bound: float | None = None

    def __add__(self, other: _Layer) -> _Layer:
        tallies = [each.tally for each in (self, other) if each.tally is not None]
        bounds = [each.bound for each in (self, other) if each.bound is not None]
        return _Layer(
            self.kind if self.kind in names() else other.kind,
            self.macs + other.macs,
            sum(tallies[1:], tallies[0]) if tallies else None,
            # Kept where it is NaN, too: a bound that is not known must not look like a small one.
            float(np.max(bounds)) if bounds else None,
        )


class LayersFound(NamedTuple):
    """What one process counted.

    Attributes:
        layers: by name, in the order in which they run.
        reasons: of the convolutions, why a method takes them, or not.
        taken: the names of the layers that methods take, for each input signature.
        arithmetics: of the layers that methods may take, the format that their products are computed in.
    """

    layers: dict[str, _Layer]
    reasons: dict[str, str]
    taken: dict[Any, tuple[str, ...]]
    arithmetics: dict[str, str]


class LayerTally:
    """Collects what every layer did.

    What the dense network takes is counted on the model itself, not taken from the compiled network's word.

    Args:
        model: the original, in evaluation mode.
        compiled: the compiled network.
    """

    def __init__(self, model: nn.Module, compiled: Compiled) -> None:
        self._model, self._compiled = model, compiled
        self._modules = {name for name, _ in model.named_modules()}
        self._operators: dict[Any, list[OperatorMacs]] = {}
        self._layers: dict[str, _Layer] = {}
        self._reasons: dict[str, str] = {}
        self._taken: dict[Any, tuple[str, ...]] = {}
        self._arithmetics: dict[str, str] = {}

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
        layers = self._compiled.layers
        self._reasons = self._reasons or {layer.name: layer.reason for layer in layers}
        self._arithmetics = self._arithmetics or {self._product(layer): layer.arithmetic for layer in layers}
        self._taken.setdefault(batch.signature, tuple(stats))
        for operator in self._operators[batch.signature]:
            own = stats.pop(operator.layer, None)
            if own is None:
                layer = _Layer(operator.kind, MacCount(dense=operator.macs, convolution=operator.macs))
            else:
                _check(operator, own)
                layer = _Layer(own.method, own.macs, own.tally, own.image_bound)
            before = self._layers.get(operator.layer)
            self._layers[operator.layer] = layer if before is None else before + layer
        if stats:
            raise ValidationError(f"the compiled network tells of layers that the model has not: {', '.join(stats)}")

    def _product(self, layer: ConvLayer) -> str:
        """What ``OperatorMacs`` calls a layer's products; attention that no submodule calls has its node's name."""
        if layer.kind != "attention":
            return layer.name
        return f"{layer.name}.matmul" if layer.name in self._modules else "matmul"

    def found(self) -> LayersFound:
        """What was counted, as plain data."""
        return LayersFound(self._layers, self._reasons, self._taken, self._arithmetics)

    def join(self, found: Iterable[LayersFound]) -> None:
        """Take in place of the own count the sum of several processes' counts, this one's among them.

        Raises:
            ValidationError: for inputs of the same shapes methods took other layers in some than in the others.
        """
        self._layers, self._reasons, self._taken, self._arithmetics = {}, {}, {}, {}
        for each in found:
            for signature, layers in each.taken.items():
                if self._taken.setdefault(signature, layers) != layers:
                    raise ValidationError(
                        "the processes chose different layers for their methods: their cost models differ. Give them "
                        "one cache, a configuration without cost model, or one saved network"
                    )
            self._reasons = self._reasons or each.reasons
            self._arithmetics = self._arithmetics or each.arithmetics
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
                channels=layer.tally,
                error_bound=layer.bound,
                seconds=(seconds or {}).get(name),
                dense_seconds=(dense_seconds or {}).get(name),
                arithmetic=self._arithmetics.get(name, "float32"),
            )
            for name, layer in self._layers.items()
        )


def _check(operator: OperatorMacs, stats: LayerStatistics) -> None:
    if stats.macs.dense != operator.macs:
        raise ValidationError(
            f"{operator.layer}: the compiled network counts {stats.macs.dense} dense multiply-adds, "
            f"the model has {operator.macs}"
        )
    wrong = stats.inconsistency()
    if wrong:
        raise ValidationError(f"{operator.layer}: the compiled network {wrong}")
