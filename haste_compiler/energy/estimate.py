"""``estimate_energy``: what a network would cost in each arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from haste_compiler.energy.arithmetic import FLOAT16, FLOAT32, INT8, TERNARY, Accumulation, Arithmetic, Process
from haste_compiler.energy.layers import KINDS, Products, products
from haste_compiler.graph.arguments import Model

SCHEMES: Mapping[str, Mapping[str, Arithmetic]] = {
    "float32": dict.fromkeys(KINDS, FLOAT32),
    "float16": dict.fromkeys(KINDS, FLOAT16),
    "int8": dict.fromkeys(KINDS, INT8),
    "prom": {**dict.fromkeys(KINDS, INT8), "pointwise": TERNARY},
}
"""The arithmetic of each kind of layer. PROM: ternary weights in pointwise convolutions, int8 elsewhere (arXiv
2505.03254)."""

OTHER_BITS = 16
"""Bits of a parameter that is no filter, but in the float32 network: scales, shifts and biases, into which the scales
of quantised filters are folded."""

_BITS_PER_MEGABYTE = 8e6
_PICO_PER_MICRO = 1e6


@dataclass(frozen=True)
class Cost:
    """What a network costs in one scheme.

    Attributes:
        scheme: a key of ``SCHEMES``.
        microjoules: of the products of all inputs together; memory isn't counted.
        megabytes: of the parameters.
    """

    scheme: str
    microjoules: float
    megabytes: float


@dataclass(frozen=True)
class EnergyEstimate:
    """What a network's products and parameters would cost, by scheme. Prints as a table.

    Attributes:
        process: the chip whose table of operations was taken.
        accumulation: how sums are priced.
        macs: multiply-adds, by kind of layer.
        weights: numbers in filters, by kind of layer.
        costs: in the order of ``SCHEMES``.
    """

    process: str
    accumulation: str
    macs: Mapping[str, int]
    weights: Mapping[str, int]
    costs: tuple[Cost, ...]

    def of(self, scheme: str) -> Cost:
        """The cost in one scheme."""
        return next(cost for cost in self.costs if cost.scheme == scheme)

    def to_dict(self) -> dict[str, Any]:
        """Everything as nested dictionaries and lists."""
        return {**asdict(self), "costs": [asdict(cost) for cost in self.costs]}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __repr__(self) -> str:
        from haste_compiler.energy.table import render

        return render(self)


def estimate_energy(
    model: Model, inputs: Sequence[Any], *, process: Process = "7nm", accumulation: Accumulation = "narrow"
) -> EnergyEstimate:
    """Estimate what a network's products would cost in float32, float16, int8 and PROM, and what its weights take.

    The model that papers on number formats use: each multiply-add costs one multiplication and one addition of a
    published table, with ternary weights the addition alone; reading and writing memory isn't counted. It says what
    arithmetic could save on a chip made for it, not what this CPU draws.

    Args:
        model: any module that ``compile`` takes.
        inputs: its positional arguments.
        process: the chip: "45nm" (Horowitz 2014) or "7nm" (Jouppi et al. 2021).
        accumulation: what sums are priced as: "narrow", as wide as the factors, which is how PROM's figures come out;
            "wide", int32 or float32, which is how they are added up in fact.

    Raises:
        CaptureError: the model can't be captured.
        InputError: no such process or accumulation is known.
    """
    return priced(products(model, inputs), process, accumulation)


def priced(found: Products, process: Process = "7nm", accumulation: Accumulation = "narrow") -> EnergyEstimate:
    """The same of layers that were listed before."""
    macs = {kind: sum(layer.macs for layer in found.layers if layer.kind == kind) for kind in KINDS}
    weights = {kind: sum(layer.weights for layer in found.layers if layer.kind == kind) for kind in KINDS}
    costs = []
    for scheme, arithmetics in SCHEMES.items():
        energy = sum(macs[kind] * arithmetics[kind].multiply_add(process, accumulation) for kind in KINDS)
        others = max(OTHER_BITS, 32 if scheme == "float32" else 0)
        bits = sum(weights[kind] * arithmetics[kind].weight_bits for kind in KINDS) + found.others * others
        costs.append(Cost(scheme, energy / _PICO_PER_MICRO, bits / _BITS_PER_MEGABYTE))
    return EnergyEstimate(process, accumulation, macs, weights, tuple(costs))
