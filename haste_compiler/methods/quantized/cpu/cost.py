"""What a layer takes on a CPU in integers and in float32, from the models that tilings are chosen by."""

from __future__ import annotations

import math

from torch import fx

from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, choose_attention
from haste_compiler.codegen.cpu.kernels.dense import cheapest_dense
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.attention import attention_call
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct
from haste_compiler.methods.quantized.cpu.unit import ProductUnit
from haste_compiler.methods.quantized.cpu.units import integer_unit, narrow_unit, unit_for
from haste_compiler.methods.quantized.cpu.winograd_tiling import choose_winograd

_POWER_CYCLES, _ROUNDED_POWER_CYCLES = 9.0, 16.0
"""Of a vector of scores that becomes weights, in float32 and rounded."""

_PACKING_CYCLES, _ROUNDING_CYCLES = 3.0, 8.0
"""Of a vector of keys or values that is packed, in float32 and rounded. All four are fitted to Zen 3."""

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
    unit = unit_for(machine.target, algorithm.bits, algorithm.ternary)
    return seconds_with(unit, machine, geometry, batch, algorithm.size)


def seconds_with(unit: ProductUnit, machine: Cpu, geometry: ConvGeometry, batch: int, size: int) -> float:
    """Seconds of what a unit multiplies, as it is written or, of size m, by F(m × m, 3 × 3)."""
    if not size:
        return choose_direct(geometry, batch, unit, machine.unit, machine.threads)[0] / _CYCLES_PER_SECOND
    return choose_winograd(geometry, batch, size, unit, machine.unit, machine.threads)[0] / _CYCLES_PER_SECOND


def attention_seconds(machine: Cpu, node: fx.Node) -> tuple[float, float]:
    """Seconds of one call of attention, in float32 and in integers."""
    call = attention_call(node)
    *leading, queries, width = shape_of(call.query)
    *_, keys, features = shape_of(call.value)
    sizes = AttentionSizes(tuple(leading), queries, keys, width, features)
    tiling, unit = choose_attention(sizes, machine.unit, machine.threads), integer_unit(machine.target)
    lanes, sums = machine.unit.lanes, tiling.rows * tiling.score_vectors
    panels = math.ceil(keys / (tiling.score_vectors * lanes))
    groups = math.ceil(features / (tiling.value_vectors * lanes))
    outputs = tiling.rows * tiling.value_vectors
    steps, pairs = math.ceil(width / unit.GROUP), math.ceil(keys / unit.GROUP)
    floats = panels * width * (sums / 2 + 1) + groups * keys * (outputs / 2 + 1)
    integers = panels * steps * (sums * unit.CYCLES + 1) + groups * pairs * (outputs * unit.CYCLES + 1)
    scores, packed = panels * sums, tiling.tasks * keys * (width + features) / lanes
    tiles, matrices = tiling.tasks * tiling.tiles, math.prod(leading)
    each = (
        tiles * (floats + scores * _POWER_CYCLES) + packed * _PACKING_CYCLES,
        tiles * (integers + scores * _ROUNDED_POWER_CYCLES) + packed * _ROUNDING_CYCLES,
    )
    dense, own = (matrices * cycles / (machine.threads * _CYCLES_PER_SECOND) for cycles in each)
    return dense, own
