"""A tap too many dropped loses what it reads; one too few costs nine times the work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haste_compiler.graph.nodes import is_tensor, shape_of
from tests.passes.checking import Fn, check_passes, nodes


def convolution(gm: torch.fx.GraphModule) -> tuple[tuple[int, ...], object, object]:
    (conv,) = nodes(gm, "haste.conv2d")
    assert is_tensor(conv.args[1])
    return shape_of(conv.args[1])[2:], conv.args[5], conv.args[6]


@pytest.mark.parametrize(
    ("dilation", "kernel", "padding", "after"),
    [
        (36, (1, 1), [0, 0, 0, 0], [1, 1]),
        (14, (1, 1), [0, 0, 0, 0], [1, 1]),
        (13, (3, 3), [13, 13, 13, 13], [13, 13]),
        ((14, 13), (1, 3), [0, 0, 13, 13], [1, 13]),
        (1, (3, 3), [1, 1, 1, 1], [1, 1]),
    ],
)
def test_taps_that_never_fall_on_the_image(dilation: int, kernel: object, padding: object, after: object) -> None:
    conv = nn.Conv2d(4, 5, 3, padding=dilation, dilation=dilation)
    assert convolution(check_passes(conv, torch.randn(2, 4, 14, 14))) == (kernel, padding, after)


def test_an_unread_tap_that_is_not_finite_stays() -> None:
    conv = nn.Conv2d(4, 5, 3, padding=9, dilation=9)
    conv.weight.data[0, 0, 0, 0] = torch.inf
    x = torch.randn(1, 4, 6, 6)
    gm = check_passes(Fn(lambda self, x: self.c(x)[:, 1:], c=conv), x)
    assert convolution(gm)[0] == (3, 3)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    dilation=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_the_result_stays(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    fits = all(n + 2 * p > (k - 1) * d for n, p, k, d in zip(size, padding, kernel, dilation, strict=True))
    conv = nn.Conv2d(2, 3, kernel, stride, padding, dilation)
    if fits:
        check_passes(conv, torch.randn(1, 2, *size))
