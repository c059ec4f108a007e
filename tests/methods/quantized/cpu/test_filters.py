"""Where filters lie in memory, against their definition."""

import numpy as np
import pytest
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.filters import FilterLayout
from haste_compiler.methods.quantized.cpu.unit import Bytes, IntegerUnit, Multiply, Pairs, UnsignedDot
from tests.codegen.cpu.test_dense import CORNERS


@pytest.mark.parametrize("unit", [Multiply, Pairs, UnsignedDot, Bytes])
@pytest.mark.parametrize("geometry", CORNERS)
def test_filters_lie_where_the_kernels_read_them(geometry: ConvGeometry, unit: type[IntegerUnit]) -> None:
    layout, weight = FilterLayout(geometry, 16, unit(8, 16)), _weight(geometry)
    group, part = unit.GROUP, unit.GROUP // unit.DEPTH
    kh, per_group = geometry.kernel[0], geometry.in_channels // geometry.groups
    packed = layout.pack(weight)
    assert packed.size == layout.tiles * layout.tile_elements
    packed = packed.reshape(layout.tiles, kh, layout.taps, layout.steps, 2, unit.DEPTH, 8, part)
    found = np.zeros_like(packed)
    for k, c, i, j in np.ndindex(weight.shape):
        conv_group, rest = divmod(k, geometry.out_channels // geometry.groups)
        tap, value = (0, j * per_group + c) if layout.is_fused else (j, c)
        tile, channel = conv_group * layout.group_tiles + rest // 16, rest % 16
        place = (channel // 8, value % group // part, channel % 8, value % part)
        found[tile, i, tap, value // group, *place] = weight[k, c, i, j]
        # Other parts of the kernel find a filter by its number.
        at = layout.place(value) + channel // 8 * 8 * group + channel % 8 * part
        assert packed[tile, i, tap].flat[at] == weight[k, c, i, j]
    np.testing.assert_array_equal(packed, found)


@pytest.mark.parametrize("geometry", CORNERS)
def test_starts_undo_what_an_offset_adds(geometry: ConvGeometry) -> None:
    layout, weight = FilterLayout(geometry, 16, UnsignedDot(8, 16)), _weight(geometry)
    packed = layout.pack(weight).reshape(layout.tiles, geometry.kernel[0], -1, 16, 4).astype(np.int32)
    starts = layout.pack_starts(weight, 128).reshape(layout.tiles, geometry.kernel[0], 16)
    np.testing.assert_array_equal(starts + 128 * packed.sum((2, 4)), 0)


def _weight(geometry: ConvGeometry) -> NDArray[np.int8]:
    shape = (geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
    return np.random.RandomState(0).randint(-127, 128, shape).astype(np.int8)
