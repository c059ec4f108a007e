"""A small network, and an image with even areas for it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler import FlatConfig

FORCED = FlatConfig(tile_tolerance=0.0, cost_model=False)
"""Every layer that can be, to the bit."""


class Network(nn.Module):
    """Every operator that hands labels on, and one that doesn't."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.slope = nn.PReLU(16)
        self.square = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(32, 24, 1)
        self.strided = nn.Conv2d(24, 16, 3, stride=2, padding=1)
        self.gate = nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(16, 8, 3, padding=1)
        self.after = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.stem(x))
        x = F.relu(self.square(x) + x)
        x = torch.cat([F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1), self.depthwise(x)], 1)
        x = F.gelu(self.strided(self.point(x)))
        scaled = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = self.head(scaled) + self.head(x)
        return self.after(F.interpolate(x, scale_factor=2.0, mode="bilinear"))


def page(batch: int = 1) -> Tensor:
    """White with a few strokes."""
    x = torch.ones(batch, 3, 72, 76)
    x[:, :, 20:22, 10:40] = 0.1
    x[:, 1, 50:60, 50] = 0.3
    return x
