"""Filters of every kind, as units take them."""

from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.cpu.ternary import NarrowSums
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit
from haste_compiler.methods.quantized.weights import filters_for
from haste_compiler.prom.ternary import ternarized


def suited(weight: Tensor, unit: IntegerUnit) -> Tensor:
    """Weights as a unit can multiply by them: ternary for some."""
    return ternarized(weight) if isinstance(unit, NarrowSums) else weight


def filters_of(weight: Tensor, geometry: ConvGeometry, unit: IntegerUnit) -> tuple[Tensor, Tensor]:
    """Integers and scales as a unit takes them."""
    return filters_for(weight, geometry, Algorithm(0, unit.bits, isinstance(unit, NarrowSums)))
