"""Winograd's algorithm on integers against PyTorch's convolution in float32."""

import pytest
import torch
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.reference.plain import convolve_plainly, padded
from haste_compiler.methods.quantized.reference.winograd import winograd_integers
from haste_compiler.methods.quantized.weights import quantize_filters, quantize_transformed

GEOMETRIES = [
    ConvGeometry(20, 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (9, 11), (8, 8)),
    ConvGeometry(5, 7, (3, 3), (1, 1), (0, 2, 1, 0), (1, 1), 1, (8, 8), (8, 8)),
    ConvGeometry(1, 1, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (6, 6), (8, 8)),
]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_error_is_small(geometry: ConvGeometry, size: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, geometry.in_channels, *geometry.input_size), _weight(geometry)
    y = winograd_integers(x, quantize_transformed(weight, size), quantize_filters(weight), geometry, size)
    wanted = F.conv2d(padded(x, geometry), weight)
    assert y.shape == wanted.shape and y.dtype == torch.float32
    # Of noise, which Winograd's transforms make larger.
    assert (y - wanted).norm() < {2: 0.02, 4: 0.05}[size] * wanted.norm()


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_is_not_finite_goes_where_it_goes_in_float32(geometry: ConvGeometry, size: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, geometry.in_channels, *geometry.input_size), _weight(geometry)
    x[0, 0, 1, 1], x[1, -1, -1, -1] = torch.nan, torch.inf
    plain = quantize_filters(weight)
    y = winograd_integers(x, quantize_transformed(weight, size), plain, geometry, size)
    wanted = convolve_plainly(x, *plain, geometry)
    torch.testing.assert_close(y.isnan(), wanted.isnan())
    torch.testing.assert_close(y.isinf(), wanted.isinf())


def _weight(geometry: ConvGeometry) -> torch.Tensor:
    return torch.randn(geometry.out_channels, geometry.in_channels, 3, 3)
