"""What rounding to bfloat16 changes a layer's output by, measured on the layer alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.bfloat16.reference.direct import convolve_rounded
from haste_compiler.methods.bfloat16.reference.winograd import winograd_rounded
from haste_compiler.methods.bfloat16.weights import round_filters, round_transformed
from haste_compiler.methods.quantized.errors import middle
from haste_compiler.methods.quantized.reference.plain import padded


def relative_error(x: Tensor, weight: Tensor, geometry: ConvGeometry, size: int) -> float:
    """The relative error (2-norm) of a convolution of bfloat16 without its epilogue.

    Args:
        x: (N, C, H, W), float32, of any height and width; a piece of it is looked at.
        weight: float32 (K, C / groups, kh, kw).
        geometry: the convolution's.
        size: 0: as it is written; m: by F(m × m, 3 × 3).
    """
    x, geometry = middle(x, geometry)
    images, stride, dilation = padded(x, geometry), geometry.stride, geometry.dilation
    exact = F.conv2d(images, weight, None, stride, 0, dilation, geometry.groups)
    filters = round_filters(weight)
    if size:
        y = winograd_rounded(x, round_transformed(weight, size), filters, geometry, size)
    else:
        y = convolve_rounded(x, filters, geometry)
    return float((y - exact).norm() / exact.norm().clamp(min=torch.finfo(torch.float32).tiny))
