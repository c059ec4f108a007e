"""Filters of every kind, as units take them."""

from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.cpu.ternary import NarrowSums
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit
from haste_compiler.methods.quantized.weights import filters_for


def ternarized(weight: Tensor) -> Tensor:
    """Weights (K, ...) of which the small ones become 0, and others of an output channel ±a, their mean size.

    Source: Li et al., arXiv 1605.04711 (ternary weight networks), equations 4 to 6.
    """
    sizes = weight.abs().flatten(1)
    kept = sizes > 0.7 * sizes.mean(1, keepdim=True)
    mean = (sizes * kept).sum(1) / kept.sum(1)
    shape = (-1, *[1] * (weight.dim() - 1))
    return weight.sign() * kept.reshape(weight.shape) * mean.reshape(shape)


def suited(weight: Tensor, unit: IntegerUnit) -> Tensor:
    """Weights as a unit can multiply by them: ternary for some."""
    return ternarized(weight) if isinstance(unit, NarrowSums) else weight


def filters_of(weight: Tensor, geometry: ConvGeometry, unit: IntegerUnit) -> tuple[Tensor, Tensor]:
    """Integers and scales as a unit takes them."""
    return filters_for(weight, geometry, Algorithm(0, unit.bits, isinstance(unit, NarrowSums)))
