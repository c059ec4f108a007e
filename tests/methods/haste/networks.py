"""Inputs with something to merge, and convolutions, for the tests of this folder."""

import torch
from torch import Tensor, nn

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.settings import Settings
from tests.methods.haste.reference import Layer


def redundant_images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images (N, C, H, W) with scaled copies among their channels, exact copies, zero channels and nearly flat ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator)
    kinds = torch.randint(0, 6, (channels,), generator=generator).tolist()
    for channel, kind in enumerate(kinds):
        source = x[:, channel // 2]
        noise = x[:, channel].clone()
        if kind == 0:
            x[:, channel] = source
        elif kind in (1, 2):
            x[:, channel] = (0.5 + kind) * source + 0.1 * noise
        elif kind == 3:
            x[:, channel] = 0
        elif kind == 4:
            x[:, channel] = 1 + 0.05 * noise
    return x


def geometry_of(layer: Layer) -> ConvGeometry:
    return ConvGeometry(
        layer.channels,
        layer.filters,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.size,
        layer.patch,
    )


def settings_of(layer: Layer) -> Settings:
    return Settings(layer.planes, layer.tolerance, layer.flat_tolerance)


def layer_of(geometry: ConvGeometry, merge: str, skip: str, settings: Settings) -> Layer:
    g = geometry
    return Layer(
        g.in_channels, g.out_channels, g.kernel, g.stride, g.padding, g.dilation, g.groups, g.input_size, g.patch,
        merge, skip, *settings,
    )  # fmt: skip


class SmallNet(nn.Module):
    """A stem too narrow to merge, a grouped, a depthwise, a strided and a shared convolution, and a functional tail."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 32, 3, padding="same", groups=2, bias=False)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.strided = nn.Conv2d(32, 16, 1, stride=2)
        self.shared = nn.Sequential(nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.ReLU())
        self.again = self.shared[0]
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(self.grouped(torch.relu(self.stem(x)))))
        x = self.again(self.shared(self.strided(x)))
        return self.head(x.mean(dim=(2, 3)))
