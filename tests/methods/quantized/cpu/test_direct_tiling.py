"""How convolutions of integers are cut."""

from dataclasses import replace

import pytest

from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct, integer_tiles, step_cycles
from haste_compiler.methods.quantized.cpu.units import integer_unit

TARGETS = (
    "llvm -mcpu=x86-64",
    "llvm -mcpu=haswell",
    "llvm -mcpu=alderlake",
    "llvm -mcpu=skylake-avx512",
    "llvm -mcpu=znver4",
    "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72",
    "llvm -mtriple=aarch64-linux-gnu -mcpu=neoverse-n1",
)

POINTWISE = ConvGeometry(64, 256, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (56, 56), (8, 8))
STRIDED = ConvGeometry(64, 128, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, (56, 56), (8, 8))
LINEAR = ConvGeometry(2048, 1000, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (8, 8))


@pytest.mark.parametrize("target", TARGETS)
def test_tiles_fit_the_registers_and_use_most_of_them(target: str) -> None:
    unit = integer_unit(parse_target(target))
    tiles = list(integer_tiles(50, 256, unit))
    for tile in tiles:
        filters = 1 if tile.pixels == 1 else tile.vectors
        assert tile.pixels * tile.vectors + filters + 1 + unit.TEMPORARIES <= unit.registers
    best = min(tiles, key=lambda tile: step_cycles(tile, unit) / (tile.pixels * tile.vectors))
    assert best.pixels * best.vectors > unit.registers // 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("geometry", [POINTWISE, STRIDED, LINEAR])
def test_threads_share_the_work_and_its_peak_is_not_passed(geometry: ConvGeometry, target: str) -> None:
    unit, machine = integer_unit(parse_target(target)), vector_unit(parse_target(target))
    cycles = [choose_direct(geometry, 1, unit, machine, threads)[0] for threads in (1, 2)]
    assert 0.49 * cycles[0] < cycles[1] < 0.8 * cycles[0]
    products = geometry.dense_macs / (unit.lanes * unit.GROUP)
    assert products * unit.CYCLES < cycles[0]
    more = choose_direct(replace(geometry, in_channels=2 * geometry.in_channels), 1, unit, machine, 1)[0]
    assert 1.5 * cycles[0] < more < 2.5 * cycles[0]


def test_a_thread_rounds_once_what_it_can() -> None:
    # Output channels are cut among threads only where there are fewer pixels than threads can share.
    unit, machine = integer_unit(parse_target("llvm -mcpu=haswell")), vector_unit(parse_target("llvm -mcpu=haswell"))
    _, whole = choose_direct(POINTWISE, 1, unit, machine, 2)
    assert whole.channel_tiles * whole.tile.channels >= POINTWISE.out_channels
    _, cut = choose_direct(LINEAR, 1, unit, machine, 2)
    assert cut.channel_tiles * cut.tile.channels < LINEAR.out_channels
