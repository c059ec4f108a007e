"""Probabilities that don't add up, or a mask that lets something through."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.kernels.softmax import softmax_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import assert_near, on_x86, run_kernel, targets


def softmax(x: Tensor, target: str) -> Tensor:
    lanes = vector_unit(parse_target(target)).lanes
    return run_kernel(softmax_kernel("softmax", tuple(x.shape), lanes), target, x.shape, x)


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(
    leading=st.lists(st.integers(1, 70), max_size=2),
    size=st.integers(1, 150),
)
def test_it_is_the_softmax(target: str, leading: list[int], size: int) -> None:
    x = 5 * torch.randn(*leading, size) + 20
    assert_near(softmax(x, target), x.double().softmax(-1), 1e-6)


def test_what_is_not_finite() -> None:
    """A mask of minus infinity is zero exactly; NaN, infinity and a row of masks alone make NaN, in their rows."""
    x = torch.randn(6, 37)
    x[0, 5:] = x[1] = -torch.inf
    x[2, 36], x[3, 0], x[4, :7] = torch.nan, torch.inf, -100
    y = softmax(x, "llvm")
    torch.testing.assert_close(y, x.softmax(-1), equal_nan=True)
    assert (y[0, 5:] == 0).all() and y[1:4].isnan().all() and (y[4, :7] == 0).all()
