"""A convolution of integers by Winograd's minimal filtering (``graph.winograd``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT, OUTPUT
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.reference.plain import convolve_plainly, padded
from haste_compiler.methods.quantized.reference.rounding import quantize


def winograd_integers(
    x: Tensor,
    transformed: tuple[Tensor, Tensor],
    plain: tuple[Tensor, Tensor],
    geometry: ConvGeometry,
    size: int,
    bits: int = BITS,
) -> Tensor:
    """Convolve 3×3 without bias and activation, by tiles of ``size × size`` outputs that overhang the output plane.

    The transformed input of a tile is rounded (``quantize``) by a scale for each of its positions. Tiles with
    one that is not finite are convolved in float32.

    Args:
        x: (N, C, H, W), float32.
        transformed: filters, int8 (K, C, size + 2, size + 2), and their scales, float32 (K, size + 2, size + 2).
        plain: the filters as they are, int8 (K, C, 3, 3), and their scales, float32 (K,).
        geometry: the convolution's.
        size: 2 or 4.
        bits: that transformed inputs are rounded to.

    Returns:
        (N, K, OH, OW), float32.
    """
    side, (height, width) = size + 2, geometry.output_size
    down, across = -(-height // size), -(-width // size)
    images = padded(x, geometry)
    images = F.pad(images, (0, across * size + 2 - images.shape[3], 0, down * size + 2 - images.shape[2]))
    tiles = F.unfold(images, side, stride=size).unflatten(1, (-1, side, side))
    inputs, outputs = (torch.tensor(table[size], dtype=torch.float32, device=x.device) for table in (INPUT, OUTPUT))
    values = torch.einsum("ia,ncabt->ncibt", inputs, tiles)
    values = torch.einsum("jb,ncibt->nctij", inputs, values)
    integers, scales = quantize(values, (1,), bits=bits)
    good = scales.isfinite().all(-1).all(-1)[:, 0]
    integers = torch.where(scales.isfinite(), integers, 0.0)
    sums = torch.einsum("nctij,kcij->nktij", integers, transformed[0].double())
    products = sums * scales.double() * transformed[1].double()[:, None]
    y = torch.einsum("ai,nktij,bj->nkabt", outputs.double(), products, outputs.double())
    y = F.fold(y.flatten(1, 3), (down * size, across * size), size, stride=size)[:, :, :height, :width].float()
    if bool(good.all()):
        return y
    mask = good.reshape(-1, 1, down, across).repeat_interleave(size, 2).repeat_interleave(size, 3)
    return torch.where(mask[:, :, :height, :width], y, convolve_plainly(x, *plain, geometry))
