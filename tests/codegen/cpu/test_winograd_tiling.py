"""How Winograd's algorithm is cut: what a task works on stays near, unless filters would be read too often."""

import pytest

from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.target import VectorUnit, vector_unit
from haste_compiler.codegen.cpu.tiling import L3_SHARE_BYTES, WinogradTiling, again_cycles
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from tests.cost.geometries import square

UNITS = [VectorUnit(16, 32), VectorUnit(8, 16, 1 << 18), VectorUnit(8, 16, 1 << 19), VectorUnit(4, 32, 1 << 19)]


def chosen(geometry: ConvGeometry, unit: VectorUnit, batch: int = 1) -> WinogradTiling:
    tiling = choose_dense(geometry, batch, unit, 1, 4)
    assert isinstance(tiling, WinogradTiling)
    return tiling


def scratch(geometry: ConvGeometry, tiling: WinogradTiling) -> int:
    """Bytes of a task's transformed inputs and sums."""
    tiles = tiling.block * tiling.grid(geometry)[1]
    return 4 * (tiling.size + 2) ** 2 * tiles * (geometry.in_channels + tiling.tile.channels)


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("channels", "filters", "side"), [(32, 32, 256), (64, 32, 256), (64, 64, 180), (128, 64, 128)])
def test_what_a_task_works_on_stays_near(channels: int, filters: int, side: int, batch: int, unit: VectorUnit) -> None:
    """Breaks where a few filters are read less often at the price of moving transformed images to memory and back."""
    geometry = square(channels, filters, side, 1)
    assert scratch(geometry, chosen(geometry, unit, batch)) <= L3_SHARE_BYTES


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_many_filters_are_read_once(unit: VectorUnit) -> None:
    """Breaks where 38 MB of filters are read for every row of tiles."""
    geometry = square(512, 512, 28, 1)
    tiling = chosen(geometry, unit)
    assert tiling.block == tiling.grid(geometry)[0]


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_what_is_gone_over_again_costs_more_the_further_it_is(unit: VectorUnit) -> None:
    held = [unit.l2_bytes, unit.l2_bytes + 1, L3_SHARE_BYTES, 2 * L3_SHARE_BYTES, 64 * L3_SHARE_BYTES]
    near, past, share, beyond, memory = (again_cycles(1e6, each, unit) for each in held)
    assert near == 0 < past == share < beyond < memory < 1e6


def test_a_processor_has_its_own_second_level_cache() -> None:
    sizes = {cpu: vector_unit(parse_target(f"llvm -mcpu={cpu}")).l2_bytes for cpu in ("haswell", "znver3")}
    assert sizes == {"haswell": 256 << 10, "znver3": 512 << 10}
