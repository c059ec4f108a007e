"""Pooling kernels against PyTorch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.codegen.pooling import Pooling
from tests.codegen.kernels import run_pooling, targets


@st.composite
def poolings(draw: st.DrawFn) -> tuple[Pooling, Tensor]:
    """A pooling, an image with NaN and infinities, and what PyTorch makes of it (as the pooling's output)."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kind = draw(st.sampled_from(("max", "avg", "adaptive_avg")))
    kernel, stride = pair(1, 7), pair(1, 3)
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    dilation = pair(1, 2) if kind == "max" else (1, 1)
    least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    height, width = draw(st.integers(least[0], least[0] + 12)), draw(st.integers(least[1], least[1] + 12))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(draw(st.integers(1, 3)), draw(st.integers(1, 70)), height, width)
    if draw(st.booleans()):
        x.flatten()[torch.randint(x.numel(), (3,))] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    output = pair(1, 9) if kind == "adaptive_avg" else (0, 0)
    include, divisor = True, None
    if kind == "avg":
        include, divisor = draw(st.booleans()), draw(st.sampled_from((None, None, 3)))
    if kind != "adaptive_avg":
        ceil = draw(st.booleans())
        # PyTorch knows the output's size under ceil_mode.
        y = F.max_pool2d(x[:1, :1], kernel, stride, padding, dilation, ceil)
        output = (y.shape[2], y.shape[3])
    pooling = Pooling(kind, (height, width), output, kernel, stride, padding, dilation, include, divisor)
    return pooling, x


def expected(pooling: Pooling, x: Tensor) -> Tensor:
    if pooling.kind == "adaptive_avg":
        return F.adaptive_avg_pool2d(x, pooling.output_size)
    results = []
    for ceil in (False, True):
        if pooling.kind == "max":
            y = F.max_pool2d(x, pooling.kernel, pooling.stride, pooling.padding, pooling.dilation, ceil)
        else:
            y = F.avg_pool2d(
                x, pooling.kernel, pooling.stride, pooling.padding, ceil, pooling.count_include_pad, pooling.divisor
            )
        if tuple(y.shape[2:]) == pooling.output_size:
            results.append(y)
    return results[0]


def check(pooling: Pooling, x: Tensor, target: str) -> None:
    actual = run_pooling(pooling, x, target)
    torch.testing.assert_close(actual, expected(pooling, x), rtol=1e-5, atol=1e-5, equal_nan=True)


@settings(max_examples=25)
@given(poolings(), st.sampled_from(targets()))
def test_pooling(case: tuple[Pooling, Tensor], target: str) -> None:
    check(*case, target)


@pytest.mark.slow
@settings(max_examples=300)
@given(poolings(), st.sampled_from(targets()))
def test_pooling_more(case: tuple[Pooling, Tensor], target: str) -> None:
    check(*case, target)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("ceil", [False, True])
def test_resnets_pooling(kind: str, ceil: bool) -> None:
    x = torch.randn(2, 64, 13, 14)
    size = tuple(F.max_pool2d(x, 3, 2, 1, 1, ceil).shape[2:])
    check(Pooling(kind, (13, 14), size, (3, 3), (2, 2), (1, 1)), x, "llvm")  # type: ignore[arg-type]


def test_maximum_of_nothing_but_minus_infinity() -> None:
    x = torch.full((1, 5, 4, 4), -torch.inf)
    check(Pooling("max", (4, 4), (2, 2), (2, 2), (2, 2)), x, "llvm")
