"""A convolution of bfloat16 by Winograd's minimal filtering (``graph.winograd``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT, OUTPUT
from haste_compiler.methods.bfloat16.reference.rounding import rounded
from haste_compiler.methods.quantized.reference.plain import padded


def winograd_rounded(x: Tensor, transformed: Tensor, weight: Tensor, geometry: ConvGeometry, size: int) -> Tensor:
    """Convolve 3×3 without bias and activation, by tiles of ``size × size`` outputs that overhang the output plane.

    Transforms are float32. A tile's transformed input is rounded to bfloat16; products and their sums are float32.
    Tiles with a transformed value that is not finite, as bfloat16, are convolved as they are, without rounding it.

    Args:
        x: (N, C, H, W), float32.
        transformed: filters, bfloat16 (K, C, size + 2, size + 2).
        weight: the filters as they are, bfloat16 (K, C, 3, 3).
        geometry: the convolution's.
        size: 2 or 4.

    Returns:
        (N, K, OH, OW), float32.
    """
    side, (height, width) = size + 2, geometry.output_size
    down, across = -(-height // size), -(-width // size)
    images = padded(x, geometry)
    whole = F.pad(images, (0, across * size + 2 - images.shape[3], 0, down * size + 2 - images.shape[2]))
    tiles = F.unfold(whole, side, stride=size).unflatten(1, (-1, side, side))
    inputs, outputs = (torch.tensor(table[size], dtype=torch.float32, device=x.device) for table in (INPUT, OUTPUT))
    values = torch.einsum("ia,ncabt->ncibt", inputs, tiles)
    values = rounded(torch.einsum("jb,ncibt->nctij", inputs, values))
    good = values.isfinite().all(-1).all(-1).all(1)
    sums = torch.einsum("nctij,kcij->nktij", values, transformed.float())
    y = torch.einsum("ai,nktij,bj->nkabt", outputs, sums, outputs)
    y = F.fold(y.flatten(1, 3), (down * size, across * size), size, stride=size)[:, :, :height, :width]
    if bool(good.all()):
        return y
    mask = good.reshape(-1, 1, down, across).repeat_interleave(size, 2).repeat_interleave(size, 3)
    return torch.where(mask[:, :, :height, :width], y, F.conv2d(images, weight.float()))
