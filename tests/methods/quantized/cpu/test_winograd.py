"""Winograd's algorithm in integers against the operator, against itself cut otherwise, and when it is worth it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from tvm import tirx

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit, Pairs, UnsignedDot
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling, choose_winograd
from tests.codegen.examples import several
from tests.cost.geometries import square
from tests.methods.quantized.cpu.winograd_examples import (
    WinogradExample,
    WinogradKernel,
    convolutions,
    expected,
    tiling_of,
    winograd_examples,
)
from tests.methods.quantized.units import UNITS

SMALL = ConvGeometry(11, 20, (3, 3), (1, 1), (1, 0, 2, 1), (1, 1), 1, (9, 6), (8, 8))
AVX2 = (Pairs(8, 16), VectorUnit(8, 16, 1 << 18))
VNNI = (UnsignedDot(16, 32), VectorUnit(16, 32))


@pytest.mark.parametrize(("unit", "size"), [*((unit, 4) for unit in UNITS), ("own", 2), ("unsigned", 2)])
def test_units(unit: str, size: int) -> None:
    WinogradExample(SMALL, residual=True, activation="relu", unit=unit, size=size, spoiled=2).check()


@settings(max_examples=2)
@given(several(winograd_examples(convolutions(24, 30)), 3))
def test_generated(examples: list[WinogradExample]) -> None:
    for example in examples:
        example.check()


@pytest.mark.slow
@settings(max_examples=300)
@given(winograd_examples(convolutions(100, 100, 20)))
def test_generated_more(example: WinogradExample) -> None:
    example.check()


@pytest.mark.parametrize("size", SIZES)
def test_inputs_whose_transforms_round(size: int) -> None:
    """A value in the middle of two integers may become the other one: the error is a fraction of a step."""
    example = WinogradExample(replace(SMALL, in_channels=100), size=size, bias=False, exact=False)
    case = example.case()
    wanted, y = expected(case, example), WinogradKernel(example, case).run(case)
    assert (y - wanted).norm() < 1e-3 * wanted.norm()
    assert (y.double() - case.expected()).norm() < 0.05 * case.expected().norm()


def test_cuts_change_no_bit() -> None:
    example = WinogradExample(SMALL, residual=True, activation="hardswish", spoiled=2, exact=False)
    case = example.case()
    cuts = ((1, 1, 1, 1), (6, 2, 7, 2), (3, 3, 4, 1))
    first, *others = [WinogradKernel(example, case, other=tiling_of(example, *cut)).run(case) for cut in cuts]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)


def test_an_image_gives_the_same_bits_alone_and_among_others() -> None:
    # Cut for more images than are there, so that tasks and register tiles don't fit them either.
    example = WinogradExample(SMALL, batch=5, residual=True, spoiled=1, exact=False, cut=(11, 14, 2))
    case = example.case()
    kernel = WinogradKernel(example, case, DynamicBatch(5, 1, tirx.Var("n", "int64")))
    together = kernel.run(case)
    assert case.residual is not None
    for images in (slice(0, 1), slice(1, 3), slice(3, 5)):
        some = kernel.run(replace(case, x=case.x[images], residual=case.residual[images]))
        torch.testing.assert_close(some, together[images], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_finite_is_where_it_is_in_float32(size: int) -> None:
    example = WinogradExample(SMALL, size=size)
    case = example.case()
    kernel = WinogradKernel(example, case)
    for value in (torch.nan, torch.inf, 3e38):
        case.x[0, 3, 2, 2] = value
        y = kernel.run(case)
        torch.testing.assert_close(y.isfinite(), case.expected().float().isfinite())
        torch.testing.assert_close(y, expected(case, example), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("unit", ["own", "unsigned"])
def test_the_largest_sums(unit: str) -> None:
    """All integers at their ends: what overflows anywhere between memory and the output is wrong by far."""
    example = WinogradExample(replace(SMALL, in_channels=3000, out_channels=8), batch=1, bias=False, unit=unit)
    case = example.case()
    case.weight.fill_(0.5)
    case.weight[::2] = -0.5
    for value in (3.0, -3.0):
        case.x.fill_(value)
        torch.testing.assert_close(
            WinogradKernel(example, case).run(case).double(), case.expected(), rtol=1e-5, atol=0.01
        )


def chosen(
    geometry: ConvGeometry, size: int, machine: tuple[IntegerUnit, VectorUnit], threads: int = 1, batch: int = 1
) -> tuple[float, WinogradTiling]:
    return choose_winograd(geometry, batch, size, *machine, threads)


@pytest.mark.parametrize("machine", [AVX2, VNNI])
@pytest.mark.parametrize("side", [14, 56, 1000])
@pytest.mark.parametrize("size", SIZES)
def test_a_task_stays_in_the_second_level_cache(size: int, side: int, machine: tuple[IntegerUnit, VectorUnit]) -> None:
    unit, vectors = machine
    _, tiling = chosen(square(128, 128, side, 1), size, machine)
    bytes_of = 2 if unit.DTYPE == "int16" else 1
    assert tiling.positions * tiling.tiles * (128 * bytes_of + tiling.tile.channels * 4) <= vectors.l2_bytes


@pytest.mark.parametrize("machine", [AVX2, VNNI])
def test_the_model_knows_products_filters_and_threads(machine: tuple[IntegerUnit, VectorUnit]) -> None:
    large, small = square(64, 64, 56, 1), square(512, 512, 4, 1)
    assert chosen(large, 4, machine)[0] < chosen(large, 2, machine)[0]
    # More than twice as many bytes of filters, for sixteen pixels of output.
    assert chosen(small, 2, machine)[0] < chosen(small, 4, machine)[0]
    for geometry in (large, small):
        alone = chosen(geometry, 4, machine)[0]
        assert 0.5 * alone <= chosen(geometry, 4, machine, threads=2)[0] < 0.8 * alone
        assert alone < chosen(geometry, 4, machine, batch=2)[0] <= 2.1 * alone
