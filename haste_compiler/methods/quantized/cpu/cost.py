"""What a layer takes on a CPU in integers and in float32, from the models that tilings are chosen by."""

from __future__ import annotations

from haste_compiler.codegen.cpu.kernels.dense import cheapest_dense
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct
from haste_compiler.methods.quantized.cpu.unit import ProductUnit, narrow_unit, unit_for
from haste_compiler.methods.quantized.cpu.winograd_tiling import choose_winograd

_CYCLES_PER_SECOND = 3e9
"""What cycles are told as: only their ratios decide."""


def multiplies_narrow_faster(machine: Cpu) -> bool:
    """Whether inputs of 7 bits are multiplied faster than those of 8."""
    return narrow_unit(machine.target) is not None


def dense_seconds(machine: Cpu, geometry: ConvGeometry, batch: int, winograd: int) -> float:
    """Seconds of one call of the convolution in float32, with Winograd's tiles up to so large."""
    return cheapest_dense(geometry, batch, machine.unit, machine.threads, winograd)[0] / _CYCLES_PER_SECOND


def seconds(machine: Cpu, geometry: ConvGeometry, batch: int, algorithm: Algorithm) -> float:
    """Seconds of one call of the convolution in integers."""
    return seconds_with(unit_for(machine.target, algorithm.bits), machine, geometry, batch, algorithm.size)


def seconds_with(unit: ProductUnit, machine: Cpu, geometry: ConvGeometry, batch: int, size: int) -> float:
    """Seconds of what a unit multiplies, as it is written or, of size m, by F(m × m, 3 × 3)."""
    if not size:
        return choose_direct(geometry, batch, unit, machine.unit, machine.threads)[0] / _CYCLES_PER_SECOND
    return choose_winograd(geometry, batch, size, unit, machine.unit, machine.threads)[0] / _CYCLES_PER_SECOND
