"""The kernels of convolutions of bfloat16, as they are written, against the operator."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from haste_compiler.codegen.cpu.tiling import ConvTiling, RegisterTile
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.cpu.test_dense import CORNERS
from tests.codegen.examples import several
from tests.codegen.strategies import geometries
from tests.methods.bfloat16.cpu.examples import Example, Kernel, direct_examples
from tests.methods.quantized.cpu.test_direct import GROUPED, LINEAR, POINTWISE, QUICK, STRIDED

ODD = ConvGeometry(3, 20, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (7, 9), (8, 8))
"""A row of taps has an odd number of values: behind the last one there is another pixel's."""

ODD_GROUPS = replace(GROUPED, in_channels=15, out_channels=9, groups=3)
"""A group has: behind the last one there is the next group's."""

generated = st.one_of(geometries(channels=24, filters=40, side=12), geometries(channels=40, filters=40, taps=1))


@pytest.mark.parametrize("geometry", [CORNERS[1], CORNERS[3], CORNERS[4], CORNERS[6], GROUPED, ODD, ODD_GROUPS])
def test_corners(geometry: ConvGeometry) -> None:
    activation = "silu" if geometry is CORNERS[4] else "relu"
    Example(geometry, residual=True, activation=activation, spoiled=3).check()


@settings(max_examples=2)
@given(several(direct_examples(generated, activation=st.sampled_from(QUICK)), 4))
def test_generated(examples: list[Example]) -> None:
    for example in examples:
        example.check()


@pytest.mark.slow
@settings(max_examples=400)
@given(direct_examples(generated))
def test_generated_more(example: Example) -> None:
    example.check()


@pytest.mark.parametrize("geometry", [ODD, ODD_GROUPS])
def test_a_spoiled_value_reaches_no_output_that_does_not_read_it(geometry: ConvGeometry) -> None:
    example = Example(geometry, batch=1)
    case = example.case()
    kernel = Kernel(example, case, example.tiling())
    for channel in range(geometry.in_channels):
        case.x[0, channel, 3, 4] = torch.nan
        assert torch.equal(kernel.run(case).isnan(), example.expected(case).isnan())
        case.x[0, channel, 3, 4] = 0.0


@pytest.mark.parametrize("geometry", [POINTWISE, STRIDED])
def test_cuts_and_threads_change_no_bit(geometry: ConvGeometry) -> None:
    example = Example(geometry, residual=True, activation="hardswish", spoiled=2, threads=3)
    case, unit = example.case(), example.unit
    tilings = [
        ConvTiling(RegisterTile(1, columns, vectors, unit.lanes, unit.FILTERS), block, chunk, channels_first)
        for columns, vectors, block, chunk, channels_first in (
            (1, 1, 1, 1, False),
            (4, 2, 2, 2, True),
            (3, 3, 3, 1, False),
        )
    ]
    first, *others = [Kernel(example, case, tiling).run(case) for tiling in tilings]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("geometry", [POINTWISE, LINEAR, STRIDED])
def test_an_image_gives_the_same_bits_alone_and_among_others(geometry: ConvGeometry) -> None:
    # Tiled for more images than are there, so that tiles of pixels don't fit them either.
    example = Example(geometry, batch=8, residual=True, spoiled=1)
    case = example.case()
    kernel = Kernel(example, case, example.tiling(), DynamicBatch(8, 1, tirx.Var("n", "int64")))
    together = kernel.run(case)
    assert case.residual is not None
    for images in (slice(0, 1), slice(1, 3), slice(3, 8)):
        some = kernel.run(replace(case, x=case.x[images], residual=case.residual[images]))
        torch.testing.assert_close(some, together[images], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "geometry",
    [replace(LINEAR, in_channels=1031, out_channels=100), replace(STRIDED, in_channels=200, out_channels=60)],
)
def test_filters_that_are_streamed(geometry: ConvGeometry) -> None:
    # More filters than are left to the caches, of one pixel and of several.
    Example(geometry, batch=1).check()
