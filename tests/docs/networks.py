"""What the pages' code blocks compute with: small networks, built at once, with the layers' names that pages use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from tests.zoo import set_batch_norm_statistics


class Block(nn.Module):
    """A residual block of one 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)) + x)


class SmallResNet(nn.Module):
    """A ResNet of two convolutions, named as torchvision's are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.layer1 = nn.Sequential(Block(channels))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.layer1(F.relu(self.conv1(x)))
        logits: Tensor = self.fc(F.avg_pool2d(maps, maps.shape[-1]).flatten(1))
        return logits


class Vit(nn.Module):
    """A vision transformer of one layer, on 32×32 images."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.Sequential(Attending(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


class Attending(nn.Module):
    """A transformer's layer, as timm writes it."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        joined = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = joined.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


def images(count: int = 8, side: int = 16) -> Tensor:
    """Smooth images with some noise, (count, 3, side, side): neighbouring pixels are alike, as in photographs."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bicubic") + 0.1 * torch.randn(
        count, 3, side, side, generator=generator
    )


def small_resnet(channels: int = 8) -> nn.Module:
    """A ``SmallResNet`` in evaluation mode, with the batch norms' statistics set."""
    torch.manual_seed(0)
    model = SmallResNet(channels).eval()
    set_batch_norm_statistics(model, images())
    return model


def small_vit() -> nn.Module:
    """A ``Vit`` in evaluation mode."""
    torch.manual_seed(0)
    return Vit().eval()


class Sum(nn.Module):
    """A network of two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(x + y)


def export_onnx(model: nn.Module, x: Tensor, path: str) -> None:
    """Write a network to an ONNX file, for any batch."""
    batch = torch.export.Dim("batch")
    torch.onnx.export(model, (x,), path, dynamic_shapes={"x": {0: batch}}, verbose=False)


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor does."""
    try:
        haste_compiler.compile(nn.Identity(), precision="bf16")
    except haste_compiler.ConfigError:
        return False
    return True
