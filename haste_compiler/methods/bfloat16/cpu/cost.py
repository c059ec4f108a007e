"""What a layer takes on a CPU in bfloat16 and in float32, from the models that tilings are chosen by."""

from __future__ import annotations

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.bfloat16.cpu.unit import required_unit
from haste_compiler.methods.quantized.cpu.cost import dense_seconds as dense_seconds
from haste_compiler.methods.quantized.cpu.cost import seconds_with


def seconds(machine: Cpu, geometry: ConvGeometry, batch: int, size: int) -> float:
    """Seconds of one call of the convolution in bfloat16, as it is written or, of size m, by F(m × m, 3 × 3)."""
    return seconds_with(required_unit(machine.target), machine, geometry, batch, size)
