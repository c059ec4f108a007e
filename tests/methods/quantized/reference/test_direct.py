"""Convolutions of integers against PyTorch's in float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.reference.direct import by_pixels, convolve_integers
from haste_compiler.methods.quantized.reference.plain import convolve_plainly, padded
from haste_compiler.methods.quantized.weights import quantize_filters
from tests.codegen.cpu.test_dense import CORNERS
from tests.codegen.strategies import geometries


@settings(max_examples=40, deadline=None)
@given(st.one_of(geometries(side=12), geometries(taps=1)), st.booleans(), st.integers(0, 2**16))
def test_the_error_is_that_of_8_bits(geometry: ConvGeometry, nonnegative: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = _tensors(geometry)
    x = x.relu() if nonnegative else x
    y = convolve_integers(x, *quantize_filters(weight), geometry, nonnegative=nonnegative)
    wanted = convolve(x, weight, geometry)
    assert y.shape == wanted.shape and y.dtype == torch.float32
    # Each factor of a product is off by at most half a step of the largest.
    size = convolve(torch.ones_like(x), torch.ones_like(weight), geometry) * x.abs().amax() * weight.abs().amax()
    assert ((y - wanted).abs() <= size * 0.5 * (1 / 127 + 1 / 127 + 1e-3)).all()


@settings(max_examples=20, deadline=None)
@given(st.one_of(geometries(side=12), geometries(taps=1)), st.integers(0, 2**16))
def test_what_is_made_of_integers_is_exact(geometry: ConvGeometry, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = (torch.randint_like(value, -127, 128) for value in _tensors(geometry))
    # The largest integer is there wherever a scale is found.
    x[:, 0], weight[:, 0, 0, 0] = 127, 127
    y = convolve_integers(x * 0.5, *quantize_filters(weight * 0.25), geometry, nonnegative=False)
    torch.testing.assert_close(y.double(), convolve(x.double(), weight.double(), geometry) / 8, rtol=1e-7, atol=0)


@pytest.mark.parametrize("geometry", CORNERS[1:])
def test_what_is_not_finite_goes_where_it_goes_in_float32(geometry: ConvGeometry) -> None:
    torch.manual_seed(0)
    x, weight = _tensors(geometry)
    x[0, 0, 0, 0], x[1, -1, -1, -1] = torch.nan, torch.inf
    integers, scale = quantize_filters(weight)
    y = convolve_integers(x, integers, scale, geometry, nonnegative=False)
    plain = convolve_plainly(x, integers, scale, geometry)
    torch.testing.assert_close(y.isnan(), plain.isnan())
    torch.testing.assert_close(y.isinf(), plain.isinf())
    # What shares a scale with them is not rounded: the same float32 sums.
    bad = ~padded(x, geometry).isfinite().all(1, keepdim=True)
    lines = bad if by_pixels(geometry) else bad.any(3, keepdim=True).expand_as(bad)
    window = (geometry.kernel, geometry.dilation, 0, geometry.stride)
    reads = F.unfold(lines.float(), *window).amax(1).view(2, 1, *geometry.output_size).bool().expand_as(y)
    assert reads.any() and torch.equal(y[reads].nan_to_num(7), plain[reads].nan_to_num(7))


@pytest.mark.parametrize("geometry", [CORNERS[1], CORNERS[3]])
def test_an_images_outputs_do_not_depend_on_the_others(geometry: ConvGeometry) -> None:
    x, weight = _tensors(geometry)
    filters = quantize_filters(weight)
    x[1] *= 100
    together = convolve_integers(x, *filters, geometry, nonnegative=False)
    assert torch.equal(together[:1], convolve_integers(x[:1], *filters, geometry, nonnegative=False))


def convolve(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """PyTorch's convolution."""
    return F.conv2d(padded(x, geometry), weight, None, geometry.stride, 0, geometry.dilation, geometry.groups)


def _tensors(geometry: ConvGeometry) -> tuple[Tensor, Tensor]:
    """Two images, and filters."""
    x = torch.randn(2, geometry.in_channels, *geometry.input_size)
    return x, torch.randn(geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
