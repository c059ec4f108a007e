"""A convolution of integers, as it is written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.reference.plain import convolve_plainly, padded
from haste_compiler.methods.quantized.reference.rounding import quantize


def by_pixels(geometry: ConvGeometry) -> bool:
    """Whether every pixel of the input has a scale of its own: its channels are summed alone. Else every row has."""
    return geometry.taps == 1


def follow_each_other(geometry: ConvGeometry) -> bool:
    """Whether the values that a row of taps reads lie next to each other in an image NHWC: they are summed as one."""
    return geometry.dilation[1] == 1 and geometry.groups == 1


def convolve_integers(
    x: Tensor, weight: Tensor, scale: Tensor, geometry: ConvGeometry, *, nonnegative: bool, bits: int = BITS
) -> Tensor:
    """Convolve without bias and activation.

    The input is rounded (``quantize``), by a scale for each pixel where the filters are 1×1, else for each
    row of an image. Products of a row of taps are summed as integers. Outputs that read a scale which is not finite are
    convolved in float32.

    Args:
        x: (N, C, H, W), float32.
        weight: int8 (K, C / groups, kh, kw).
        scale: of the filters, float32 (K,).
        geometry: the convolution's.
        nonnegative: no input is negative.
        bits: that the input is rounded to.

    Returns:
        (N, K, OH, OW), float32.
    """
    images = padded(x, geometry)
    axes = (1,) if by_pixels(geometry) else (1, 3)
    integers, scales = quantize(images, axes, nonnegative=nonnegative, bits=bits)
    finite = scales.isfinite()
    integers = torch.where(finite, integers, 0.0)
    (height, width), (down, across) = geometry.output_size, geometry.stride
    filters = weight.double()
    total = x.new_zeros(x.shape[0], weight.shape[0], height, width, dtype=torch.float64)
    good = torch.ones(x.shape[0], 1, height, width, dtype=torch.bool, device=x.device)
    for i in range(geometry.kernel[0]):
        rows = slice(i * geometry.dilation[0], i * geometry.dilation[0] + (height - 1) * down + 1, down)
        row = filters[:, :, i : i + 1]
        sums = F.conv2d(integers[:, :, rows], row, None, (1, across), 0, (1, geometry.dilation[1]), geometry.groups)
        columns = slice(0, (width - 1) * across + 1, across) if by_pixels(geometry) else slice(None)
        total += sums * scales[:, :, rows, columns].double()
        good &= finite[:, :, rows, columns]
    y = (total * scale.double()[:, None, None]).float()
    return y if bool(good.all()) else torch.where(good, y, convolve_plainly(x, weight, scale, geometry))
