"""A convolution of bfloat16, as it is written."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.bfloat16.reference.rounding import rounded
from haste_compiler.methods.quantized.reference.plain import padded


def convolve_rounded(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Convolve without bias and activation; products and sums are float32.

    Args:
        x: (N, C, H, W), float32; it is rounded to bfloat16.
        weight: bfloat16 (K, C / groups, kh, kw).
        geometry: the convolution's.

    Returns:
        (N, K, OH, OW), float32.
    """
    images, stride, dilation = rounded(padded(x, geometry)), geometry.stride, geometry.dilation
    return F.conv2d(images, weight.float(), None, stride, 0, dilation, geometry.groups)
