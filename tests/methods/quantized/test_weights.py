"""Filters as integers of 8 bits."""

import numpy as np
import pytest
import torch

from haste_compiler.graph.winograd import transform_filters
from haste_compiler.methods.quantized.weights import quantize_filters, quantize_transformed


def test_every_output_channel_has_a_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 2) * torch.logspace(-6, 6, 6)[:, None, None, None]
    integers, scale = quantize_filters(weight)
    assert integers.dtype == torch.int8 and integers.shape == weight.shape and scale.shape == (6,)
    assert integers.abs().amax((1, 2, 3)).tolist() == [127] * 6
    back = integers.float() * scale[:, None, None, None]
    assert ((back - weight).abs() <= 0.5001 * scale[:, None, None, None]).all()


def test_filters_of_zeros_stay_zeros() -> None:
    integers, scale = quantize_filters(torch.zeros(2, 3, 1, 1))
    assert not integers.any() and scale.isfinite().all()


@pytest.mark.parametrize("size", [2, 4])
def test_every_position_of_a_transformed_filter_has_a_scale(size: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    integers, scale = quantize_transformed(weight, size)
    side = size + 2
    assert integers.dtype == torch.int8 and integers.shape == (6, 5, side, side) and scale.shape == (6, side, side)
    back = integers.double().numpy() * scale.double().numpy()[:, None]
    error = np.abs(back - transform_filters(weight.numpy(), size))
    assert (error <= 0.5001 * scale.numpy()[:, None]).all()
