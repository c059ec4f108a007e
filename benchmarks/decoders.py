"""Networks with transposed convolutions, as they are usually built, with random weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """A U-Net: two 3×3 convolutions a level, halved by maxima, doubled by transposed convolutions.

    Args:
        width: channels of the first level, doubled at each of the next.
        levels: how often the image is halved.
    """

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        widths = [width << level for level in range(levels + 1)]
        self.first, self.head = _twice(3, width), nn.Conv2d(width, 2, 1)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_twice(narrow, wide) for narrow, wide in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for narrow, wide in reversed(pairs))
        self.joined = nn.ModuleList(_twice(wide, narrow) for narrow, wide in reversed(pairs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2, H, W) from (N, 3, H, W)."""
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(torch.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up, block in zip(self.up, self.joined, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        result: Tensor = self.head(x)
        return result


def _twice(before: int, after: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def generator(width: int = 64) -> nn.Module:
    """DCGAN's generator: (N, 3, 64, 64) from (N, 100, 1, 1)."""
    layers: list[nn.Module] = []
    widths = [100, 8 * width, 4 * width, 2 * width, width, 3]
    for number, (before, after) in enumerate(pairwise(widths)):
        stride, padding = (2, 1) if number else (1, 0)
        layers += [nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-2], nn.Tanh())


def style_decoder() -> nn.Module:
    """The last layers of a style-transfer network: (N, 3, 4H, 4W) from (N, 128, H, W)."""
    return nn.Sequential(
        nn.ConvTranspose2d(128, 64, 3, 2, 1, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 3, 2, 1, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 3, 9, padding=4),
    )
