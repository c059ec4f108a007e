"""A convolution in float32, by filters of 8 bits: what is computed where a scale would not be finite."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry


def padded(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """The images (N, C, H, W) with the convolution's zeros around them."""
    top, bottom, left, right = geometry.padding
    return F.pad(x, (left, right, top, bottom))


def convolve_plainly(x: Tensor, weight: Tensor, scale: Tensor, geometry: ConvGeometry) -> Tensor:
    """Convolve float32 images by filters ``weight * scale``, int8 (K, C / groups, kh, kw) and float32 (K,)."""
    filters = weight.float() * scale[:, None, None, None]
    return F.conv2d(padded(x, geometry), filters, None, geometry.stride, 0, geometry.dilation, geometry.groups)
