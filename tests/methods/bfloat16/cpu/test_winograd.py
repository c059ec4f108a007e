"""Winograd's algorithm in bfloat16 against the operator, and when it is worth it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from tests.codegen.examples import several
from tests.methods.bfloat16.cpu.examples import Kernel, WinogradExample, winograd_examples
from tests.methods.quantized.cpu.test_direct import QUICK
from tests.methods.quantized.cpu.test_winograd import SMALL
from tests.methods.quantized.cpu.winograd_examples import convolutions


@pytest.mark.parametrize("size", SIZES)
def test_corners(size: int) -> None:
    WinogradExample(SMALL, residual=True, activation="relu", size=size, spoiled=2).check()


@settings(max_examples=2)
@given(several(winograd_examples(convolutions(24, 30), activation=st.sampled_from(QUICK)), 3))
def test_generated(examples: list[WinogradExample]) -> None:
    for example in examples:
        example.check()


@pytest.mark.slow
@settings(max_examples=300)
@given(winograd_examples(convolutions(100, 100, 20)))
def test_generated_more(example: WinogradExample) -> None:
    example.check()


@pytest.mark.parametrize("size", SIZES)
def test_it_rounds_as_the_operator_does(size: int) -> None:
    """A value in the middle of two may become the other one; most become the same."""
    example = WinogradExample(replace(SMALL, in_channels=100), size=size, bias=False)
    case = example.case()
    wanted, y = example.expected(case), Kernel(example, case, example.tiling()).run(case)
    assert (y - wanted).norm() < 3e-4 * wanted.norm()
    assert (y.double() - case.expected()).norm() < 0.02 * case.expected().norm()


def test_an_image_gives_the_same_bits_alone_and_among_others() -> None:
    # Cut for more images than are there, so that tasks and register tiles don't fit them either.
    example = WinogradExample(SMALL, batch=5, residual=True, spoiled=1, cut=(11, 14, 2))
    case = example.case()
    kernel = Kernel(example, case, example.tiling(), DynamicBatch(5, 1, tirx.Var("n", "int64")))
    together = kernel.run(case)
    assert case.residual is not None
    for images in (slice(0, 1), slice(1, 3), slice(3, 5)):
        some = kernel.run(replace(case, x=case.x[images], residual=case.residual[images]))
        torch.testing.assert_close(some, together[images], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_finite_is_where_it_is_in_float32(size: int) -> None:
    example = WinogradExample(SMALL, size=size)
    case = example.case()
    kernel = Kernel(example, case, example.tiling())
    for value in (torch.nan, torch.inf, 3e38):
        case.x[0, 3, 2, 2] = value
        y = kernel.run(case)
        assert torch.equal(y.isfinite(), case.expected().float().isfinite())
        torch.testing.assert_close(y, example.expected(case), rtol=1e-3, atol=2e-2, equal_nan=True)


def test_streamed_filters_and_one_channel() -> None:
    geometry: ConvGeometry = replace(SMALL, in_channels=301, out_channels=40)
    WinogradExample(geometry, batch=1).check()
    WinogradExample(replace(SMALL, in_channels=1, out_channels=1), size=2).check()
