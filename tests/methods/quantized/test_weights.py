"""Filters as integers of 8 bits."""

import numpy as np
import pytest
import torch

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import transform_filters
from haste_compiler.methods.quantized.weights import (
    check_sums,
    quantize_filters,
    quantize_for_narrow,
    quantize_transformed,
    rows_of_taps,
)
from tests.codegen.cpu.test_dense import CORNERS


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


@pytest.mark.parametrize("geometry", CORNERS)
def test_products_of_narrow_inputs_fit_16_bits(geometry: ConvGeometry) -> None:
    """However large neighbouring filters are: a scale grows where they would not, and nowhere else."""
    torch.manual_seed(0)
    shape = (geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
    weight = torch.rand(shape) * torch.logspace(-6, 6, shape[0])[:, None, None, None]
    weight[::2] *= torch.rand(shape)[::2] ** 20
    integers, scale = quantize_for_narrow(weight, geometry)
    check_sums(rows_of_taps(integers, geometry))
    assert (((integers * scale[:, None, None, None]) - weight).abs() <= 0.5001 * scale[:, None, None, None]).all()
    plain, own = quantize_filters(weight)
    same = scale == own
    assert torch.equal(integers[same], plain[same]) and (scale >= own).all() and (scale < 2 * own).all()


def test_sums_that_leave_16_bits_are_found() -> None:
    rows = torch.zeros(1, 1, 8, dtype=torch.int8)
    rows[..., [0, 1, 4]] = 86
    check_sums(rows)
    rows[..., 5] = 1
    with pytest.raises(AssertionError, match="leave 16 bits"):
        check_sums(rows)


@pytest.mark.parametrize("size", [2, 4])
def test_products_of_narrow_transformed_inputs_fit_16_bits(size: int) -> None:
    integers, scale = quantize_transformed(torch.rand(6, 21, 3, 3), size, narrow=True)
    check_sums(integers.movedim(1, -1))
    assert integers.dtype == torch.int8 and scale.shape == (6, size + 2, size + 2)
