"""Rounding to integers of 8 bits."""

import pytest
import torch

from haste_compiler.methods.quantized.reference.rounding import quantize


@pytest.mark.parametrize(
    ("bits", "nonnegative", "most"), [(8, False, 127), (8, True, 255), (7, False, 63), (7, True, 127)]
)
def test_values_are_half_a_step_from_what_they_are_rounded_to(bits: int, nonnegative: bool, most: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 40, 5) * torch.tensor([1e-20, 1.0, 1e20])[:, None, None]
    x = x.relu() if nonnegative else x
    integers, scale = quantize(x, (1,), nonnegative=nonnegative, bits=bits)
    assert scale.shape == (3, 1, 5)
    assert (integers == integers.round()).all() and integers.abs().amax((1,)).eq(most).all()
    error = (integers * scale.double() - x.double()).abs()
    assert (error <= 0.50001 * scale.double()).all()


def test_integers_times_a_scale_stay_as_they_are() -> None:
    integers = torch.arange(-127.0, 128.0)
    again, scale = quantize(integers * 0.25, (0,))
    torch.testing.assert_close(again, integers.double(), rtol=0, atol=0)
    assert scale.item() == 0.25


def test_zeros_stay_zeros_and_others_spoil_their_scale_alone() -> None:
    x = torch.zeros(3, 4)
    x[1, 2], x[2, 0] = torch.nan, -torch.inf
    integers, scale = quantize(x, (1,))
    assert integers[0].eq(0).all() and scale.isfinite().flatten().tolist() == [True, False, False]
