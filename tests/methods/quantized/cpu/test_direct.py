"""The kernels of convolutions of integers against the operator, and against themselves cut otherwise."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from haste_compiler.codegen.cpu.tiling import ConvTiling, RegisterTile
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.direct_tiling import INTEGER
from tests.codegen.cpu.test_dense import CORNERS
from tests.codegen.examples import several
from tests.codegen.strategies import geometries
from tests.methods.quantized.cpu.examples import DirectKernel, Example, quantized_examples
from tests.methods.quantized.units import AS_WRITTEN

POINTWISE = ConvGeometry(18, 20, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (5, 4), (8, 8))
LINEAR = ConvGeometry(35, 20, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (8, 8))
LONG = replace(LINEAR, in_channels=1030, out_channels=20)
STRIDED = ConvGeometry(6, 20, (3, 3), (2, 2), (1, 0, 2, 1), (1, 1), 1, (9, 14), (8, 8))
GROUPED = ConvGeometry(10, 18, (1, 1), (2, 2), (1, 0, 0, 2), (1, 1), 2, (7, 6), (8, 8))

QUICK = ("none", "relu", "hardswish", "leaky_relu:0.01")
"""Activations that take little code, which compiles in half the time."""

generated = st.one_of(geometries(channels=24, filters=40, side=12), geometries(channels=40, filters=40, taps=1))


@pytest.mark.parametrize(
    ("geometry", "unit"),
    [
        *((geometry, "own") for geometry in (CORNERS[1], CORNERS[3], CORNERS[4], CORNERS[6], GROUPED)),
        *((geometry, "unsigned") for geometry in (CORNERS[1], CORNERS[3], GROUPED)),
        (CORNERS[6], "signed"),
        (CORNERS[4], "multiply"),
        *((geometry, "ternary") for geometry in (CORNERS[1], CORNERS[3], GROUPED)),
        (CORNERS[6], "ternary pairs"),
    ],
)
def test_corners(geometry: ConvGeometry, unit: str) -> None:
    activation = "silu" if geometry is CORNERS[4] else "relu"
    Example(geometry, residual=True, activation=activation, unit=unit, spoiled=3).check()


@settings(max_examples=2)
@given(several(quantized_examples(generated, activation=st.sampled_from(QUICK)), 4))
def test_generated(examples: list[Example]) -> None:
    for example in examples:
        example.check()


@pytest.mark.slow
@settings(max_examples=400)
@given(quantized_examples(generated))
def test_generated_more(example: Example) -> None:
    example.check()


@pytest.mark.parametrize("geometry", [POINTWISE, STRIDED])
def test_cuts_and_threads_change_no_bit(geometry: ConvGeometry) -> None:
    example = Example(geometry, batch=2, residual=True, activation="hardswish", spoiled=2, threads=3)
    case = example.case()
    lanes = example.integer_unit.lanes
    tilings = [
        ConvTiling(RegisterTile(1, columns, vectors, lanes, INTEGER), block, chunk, channels_first)
        for columns, vectors, block, chunk, channels_first in (
            (1, 1, 1, 1, False),
            (4, 2, 2, 2, True),
            (3, 3, 3, 1, False),
        )
    ]
    first, *others = [example.run(case, tiling) for tiling in tilings]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("unit", ["ternary", "ternary pairs"])
@pytest.mark.parametrize("geometry", [POINTWISE, GROUPED, STRIDED, LONG])
def test_ternary_filters_give_the_bits_of_8_bit_products(geometry: ConvGeometry, unit: str) -> None:
    """One integer is rounded to by all units, and sums are exact: so is what follows them."""
    example = Example(geometry, residual=True, activation="relu", unit=unit, spoiled=2)
    case = example.case()
    plain = replace(example, unit="own")
    filters = example.filters(case.weight)
    assert filters[0].unique().tolist() == [-1, 0, 1]
    wanted = DirectKernel(plain, case, plain.tiling(), case.batch).run(case, filters)
    torch.testing.assert_close(example.run(case), wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("geometry", [POINTWISE, LINEAR, STRIDED])
def test_an_image_gives_the_same_bits_alone_and_among_others(geometry: ConvGeometry) -> None:
    # Tiled for more images than are there, so that tiles of pixels don't fit them either.
    example = Example(geometry, batch=8, residual=True, spoiled=1)
    case = example.case()
    batch = DynamicBatch(8, 1, tirx.Var("n", "int64"))
    kernel = DirectKernel(example, case, example.tiling(), batch)
    together = kernel.run(case)
    assert case.residual is not None
    for images in (slice(0, 1), slice(1, 3), slice(3, 8)):
        some = kernel.run(replace(case, x=case.x[images], residual=case.residual[images]))
        torch.testing.assert_close(some, together[images], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("geometry", "unit"),
    [
        (replace(LINEAR, in_channels=1030, out_channels=100), "own"),
        (replace(STRIDED, in_channels=200, out_channels=60), "unsigned"),
    ],
)
def test_filters_that_are_streamed(geometry: ConvGeometry, unit: str) -> None:
    # More filters than are left to the caches, of one pixel and of several.
    Example(geometry, batch=1, unit=unit).check()


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("unit", AS_WRITTEN)
def test_the_largest_sums(unit: str, nonnegative: bool) -> None:
    """All integers at their ends: what overflows anywhere between memory and the output is wrong by far."""
    example = Example(replace(LINEAR, in_channels=66000), batch=1, bias=False, unit=unit, nonnegative=nonnegative)
    case = example.case()
    case.x.fill_(3.0)
    if not nonnegative:
        case.x[:, ::3] = -3.0
    case.weight.fill_(0.5)
    case.weight[::2] = -0.5
    if not nonnegative:
        case.weight[:, ::3] *= -1
    y = example.run(case)
    torch.testing.assert_close(y, example.expected(case), rtol=1e-6, atol=1e-4)
    # Filters for narrow inputs are not at their ends, where rounding wouldn't change them.
    within = 1e-6 if example.integer_unit.bits == 8 else 4e-3
    torch.testing.assert_close(y.double(), case.expected(), rtol=within, atol=1e-4)
