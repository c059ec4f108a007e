"""A depthwise convolution and the 1×1 convolutions around it in one kernel, against the layers one by one."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from tvm import tirx

from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.cpu.separable_examples import Case, Example, Layer, float_product, separable_examples
from tests.codegen.examples import several
from tests.codegen.kernels import assert_near, targets


def depthwise(
    channels: int, size: tuple[int, int], kernel: int = 3, stride: int = 1, dilation: int = 1, padding: int = 1
) -> ConvGeometry:
    pads = (padding,) * 4
    window = ((kernel,) * 2, (stride,) * 2, pads, (dilation,) * 2)
    return ConvGeometry(channels, channels, *window, channels, size, (8, 8))


CORNERS = [
    # The ring turns several times; the last strip and the last task are shorter than the others.
    Example(depthwise(18, (17, 9)), expanded=5, filters=13, block=7, strip=2),
    Example(depthwise(16, (16, 16), stride=2), expanded=8, filters=24, block=8, strip=3),
    # Rows that a stride steps over; windows that lie in the padding alone.
    Example(depthwise(9, (13, 8), kernel=2, stride=3, padding=2), expanded=4, block=2, strip=1),
    Example(depthwise(33, (11, 10), kernel=5, padding=2), filters=40, residual=True, block=5, strip=4),
    Example(depthwise(12, (9, 9), dilation=2, padding=2), expanded=7, residual=True, block=9, strip=1),
    Example(depthwise(8, (7, 7), kernel=7, padding=3), expanded=3, activations=("silu", "silu", "hardswish")),
    Example(depthwise(2, (1, 1)), expanded=1, filters=1, batch=1),
    Example(depthwise(40, (5, 6), padding=0), filters=3, activations=("none", "hardswish", "relu")),
]


def in_double(layer: Layer, x: Tensor, residual: Tensor | None) -> Tensor:
    return layer.compute(x.double(), None if residual is None else residual.double())


def check(example: Example) -> None:
    case = Case(example)
    assert_near(case.run(float_product(example)), case.expected(in_double))


@pytest.mark.parametrize("example", CORNERS, ids=range(len(CORNERS)))
def test_corners(example: Example) -> None:
    check(example)


@pytest.mark.parametrize("target", targets()[1:])
def test_other_targets(target: str) -> None:
    check(replace(CORNERS[0], target=target))


@settings(max_examples=2)
@given(several(separable_examples(), 2))
def test_generated(examples: list[Example]) -> None:
    for example in examples:
        check(example)


@pytest.mark.slow
@settings(max_examples=300)
@given(separable_examples())
def test_generated_more(example: Example) -> None:
    check(example)


def test_nan_and_infinity_go_where_they_go_in_pytorch() -> None:
    example = replace(CORNERS[0], activations=("none", "relu6", "none"))
    case = Case(example)
    case.x[0, 1, 8, 3], case.x[1, 2, 0, 0], case.x[1, 4, 16, 8] = torch.nan, torch.inf, -torch.inf
    wanted = case.expected(lambda layer, x, residual: layer.compute(x, residual))
    assert wanted.isnan().any() and not wanted.isnan().all()
    torch.testing.assert_close(case.run(float_product(example)), wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_cuts_change_no_bit() -> None:
    # Whatever the number of threads, an image gives the same bits.
    wanted = Case(CORNERS[1]).run(float_product(CORNERS[1]))
    for block, strip in ((3, 2), (8, 1)):
        example = replace(CORNERS[1], block=block, strip=strip)
        assert torch.equal(Case(example).run(float_product(example)), wanted)


def test_a_dynamic_batch() -> None:
    example = replace(CORNERS[3], batch=3)
    case = Case(example)
    y = case.run(float_product(example), DynamicBatch(8, 1, tirx.Var("n", "int64")))
    assert torch.equal(y, case.run(float_product(example)))
