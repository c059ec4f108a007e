"""What a validation found, as plain data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from haste_compiler.energy.arithmetic import ARITHMETICS, FLOAT16, FLOAT32
from haste_compiler.errors import ValidationError
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.statistics import Tally


@dataclass(frozen=True)
class OutputComparison:
    """One tensor of what the networks return, over all inputs.

    Attributes:
        name: "output", or where it is in the structure, such as "output['logits']".
        kind: dtype and shape in the first batch.
        max_abs_error: largest absolute difference.
        rel_error: 2-norm of the difference over the original's 2-norm, all batches together.
        worst_rel_error: the same of the batch where it is largest.
        agreement: part of the images whose largest score is at the same class; None where this holds no class scores.
        top5_agreement: mean part of the original's five best classes that are among the compiled network's five best;
            None where there are no more than five classes.
    """

    name: str
    kind: str
    max_abs_error: float
    rel_error: float
    worst_rel_error: float
    agreement: float | None
    top5_agreement: float | None


@dataclass(frozen=True)
class Accuracy:
    """How many images were put into their class.

    Attributes:
        original: part of the images that the original gets right.
        compiled: part that the compiled network gets right.
        images: images with a label.
    """

    original: float
    compiled: float
    images: int


@dataclass(frozen=True)
class LayerReport:
    """One convolution, linear layer or matrix product.

    Attributes:
        name: qualified name.
        kind: "conv", "linear" or "matmul"; of a method's layer the method's name.
        reason: of a convolution, which method takes it and why, or why none.
        macs: multiply-adds on all inputs; of a plain layer the convolution's (or the product's) are all.
        channels: of a method's layer, what became of the channels (or tiles, tokens) that the method decides about.
        error_bound: of a method's layer, bound on the 2-norm of the output error that the method makes, for the worst
            image, before the activation.
        seconds: in one call on the first batch; None where not measured.
        dense_seconds: the same in the dense compile.
        arithmetic: the format that its products are computed in.
    """

    name: str
    kind: str
    reason: str
    macs: MacCount
    channels: Tally | None = None
    error_bound: float | None = None
    seconds: float | None = None
    dense_seconds: float | None = None
    arithmetic: str = "float32"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, over all rounds."""

    best: float
    median: float


@dataclass(frozen=True)
class Times:
    """Measured time of the three networks in one alternating run.

    Attributes:
        original: the model, eager.
        dense: the same network compiled dense.
        compiled: the compiled network.
        speedup: dense over compiled, the median of the rounds' ratios.
        best_speedup: dense over compiled, best over best.
        original_speedup: original over compiled, the median of the rounds' ratios.
        rounds: how often each was timed.
        threads: that the original used.
        dense_rel_error: largest relative error of the dense compile's outputs on the first batch: a wrong dense
            compile is no yardstick.
        unattributed_seconds: in one call on the first batch, time in kernels of the compiled network that belong to no
            layer of the report; None where not measured.
    """

    original: Timing
    dense: Timing
    compiled: Timing
    speedup: float
    best_speedup: float
    original_speedup: float
    rounds: int
    threads: int
    dense_rel_error: float
    unattributed_seconds: float | None = None


@dataclass(frozen=True)
class Energy:
    """Microjoules of the products of one image, by the model of ``estimate_energy`` (7 nm, narrow sums, no memory).

    Attributes:
        compiled: of what the compiled network computes, each layer in its own arithmetic; overheads in float32.
        float32: of the dense network.
        float16: the same in float16.
    """

    compiled: float
    float32: float
    float16: float


@dataclass(frozen=True)
class ValidationReport:
    """How a compiled network compares with its model. Prints, and shows in a notebook, as a table.

    Attributes:
        max_rel_error: largest ``worst_rel_error`` of all outputs.
        agreement: top-1 agreement, the least of all outputs that hold class scores; None where none does.
        mac_reduction: net part of the whole network's dense multiply-adds that is saved (at most 1; negative where the
            overhead is larger), linear layers and matrix products counted.
        speedup: of the compiled network over its dense compile; None where not measured.
        accuracy: None without labels.
        macs: multiply-adds of all layers on all inputs.
        outputs: every tensor that the networks return.
        layers: every convolution, linear layer and matrix product, in the order in which they run.
        times: None where not measured.
        batches: how many calls were compared.
        images: in all of them.
        warnings: what makes these numbers say less than they seem to.
    """

    max_rel_error: float
    agreement: float | None
    mac_reduction: float
    speedup: float | None
    accuracy: Accuracy | None
    macs: MacCount
    outputs: tuple[OutputComparison, ...]
    layers: tuple[LayerReport, ...]
    times: Times | None
    batches: int
    images: int
    warnings: tuple[str, ...] = field(default=())

    @property
    def energy(self) -> Energy:
        """What the products of one image cost, beside the dense network's in float32 and float16."""
        pico = 0.0
        for layer in self.layers:
            products = layer.macs.spent - layer.macs.overhead
            pico += products * ARITHMETICS[layer.arithmetic].multiply_add()
            pico += layer.macs.overhead * FLOAT32.multiply_add()
        micro = 1e6 * self.images
        dense = (self.macs.dense * each.multiply_add() / micro for each in (FLOAT32, FLOAT16))
        return Energy(pico / micro, *dense)

    def to_dict(self) -> dict[str, Any]:
        """Everything as nested dictionaries and lists; multiply-adds with their sum and the net reduction."""
        result = {**asdict(self), "energy": asdict(self.energy)}
        result["macs"] = self.macs.to_dict()
        for layer, plain in zip(self.layers, result["layers"], strict=True):
            plain["macs"] = layer.macs.to_dict()
        return _lists(result)

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict`` as JSON; what is not finite is the string "inf", "-inf" or "nan", which ``float`` reads."""
        return json.dumps(_finite(self.to_dict()), indent=indent, allow_nan=False)

    def __repr__(self) -> str:
        from haste_compiler.validation.table import render

        return render(self)


class ThresholdError(ValidationError):
    """The validation ran, and the compiled network missed a threshold.

    Attributes:
        report: all that was found.
    """

    def __init__(self, message: str, report: ValidationReport) -> None:
        super().__init__(message)
        self.report = report


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
