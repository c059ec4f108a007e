"""Made-up images, like photographs, to probe a network with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_DISCS = 200
_LARGEST_SIDE = 256
_SMALLEST_RADIUS = 1 / 16
_BLUR = 1 / 224
_NOISE = 0.02


def dead_leaves(shape: Sequence[int], seed: int) -> Tensor:
    """Draw images (N, C, H, W) with the statistics of photographs: discs that hide each other, shaded, out of focus.

    Radii are distributed as r^-3, which makes the images' statistics those of nature at every scale (Lee, Mumford,
    Huang: Occlusion Models for Natural Images, 2001). A disc's colour channels are alike but for a third of their
    amplitude. Normalised as networks expect it: mean 0, variance 1. Large images are drawn small and enlarged.
    """
    images, channels, height, width = shape
    scale = min(1.0, _LARGEST_SIDE / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    drawn = torch.stack([_draw(channels, rows, columns, seed + 1000 * n) for n in range(images)])
    if scale < 1:
        drawn = F.interpolate(drawn, size=(height, width), mode="bilinear")
    noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(seed))
    return _normalised(_normalised(_blur(drawn, _BLUR * max(height, width))) + _NOISE * noise)


def _draw(channels: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    side, image = max(height, width), torch.zeros(channels, height, width)
    smallest, largest = max(2.0, _SMALLEST_RADIUS * side), side / 2
    share = torch.rand(_DISCS, generator=generator)
    radii = (share / largest**2 + (1 - share) / smallest**2).rsqrt()
    centres = torch.rand(_DISCS, 2, generator=generator) * torch.tensor([height, width])
    colours = torch.randn(_DISCS, 1, generator=generator) + torch.randn(_DISCS, channels, generator=generator) / 3
    slopes = torch.randn(_DISCS, 2, generator=generator) / side
    y, x = torch.arange(height).view(-1, 1) + 0.5, torch.arange(width) + 0.5
    for radius, centre, colour, slope in zip(radii, centres, colours, slopes, strict=True):
        down, across = y - centre[0], x - centre[1]
        shade = colour.view(-1, 1, 1) + down * slope[0] + across * slope[1]
        image = torch.where(down.square() + across.square() <= radius.square(), shade, image)
    return image


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian of ``sigma`` pixels."""
    reach = min(math.ceil(3 * sigma), min(images.shape[2:]) - 1)
    weights = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
    weights = weights / weights.sum()
    planes = F.pad(images.flatten(0, 1).unsqueeze(1), (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1)).view(images.shape)


def _normalised(images: Tensor) -> Tensor:
    mean, deviation = images.mean(dim=(1, 2, 3), keepdim=True), images.std(dim=(1, 2, 3), keepdim=True)
    return (images - mean) / deviation.clamp(min=1e-6)
