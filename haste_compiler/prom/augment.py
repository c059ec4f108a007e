"""Random crops and mirror images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 8
"""What part of its side an image is shifted by at most."""


def shifted(pixels: Tensor, generator: torch.Generator, *, mirrored: bool) -> Tensor:
    """Each image shifted at random, zeros coming in, and half of them mirrored.

    Args:
        pixels: (N, C, H, W) with H = W, any dtype.
        generator: draws.
        mirrored: whether any are.

    Returns:
        The same shape.
    """
    count, channels, side, _ = pixels.shape
    pad = side // _PART
    padded = F.pad(pixels, (pad,) * 4)
    down = torch.randint(0, 2 * pad + 1, (count,), generator=generator)
    across = torch.randint(0, 2 * pad + 1, (count,), generator=generator)
    places = torch.arange(side)
    columns = places.expand(count, side)
    if mirrored:
        turned = torch.rand(count, generator=generator) < 0.5
        columns = torch.where(turned[:, None], columns.flip(1), columns)
    rows, columns = places + down[:, None], columns + across[:, None]
    images, planes = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[images, planes, rows[:, None, :, None], columns[:, None, None, :]]
