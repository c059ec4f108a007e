"""Merge the tokens of a vision transformer that say the same, and see what that saves and changes.

`python -m examples.token_merging --model deit_small_patch16_224 --r 13` takes one of timm's; else a small one
with random weights shows the way.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import TokenConfig


class Layer(nn.Module):
    """Attention and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Of tokens (N, T, C)."""
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class SmallVit(nn.Module):
    """A vision transformer of two layers, with a class token, on images of 32×32 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(Layer(width, 2), Layer(width, 2))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 3, 32, 32)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.blocks(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))[:, 0])
        return logits


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the layers whose tokens merge, the multiply-adds that are saved, and the error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="of timm, for images of 224×224 pixels")
    parser.add_argument("--r", type=int, default=8, help="tokens that merge in each layer")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model, x = SmallVit().eval(), torch.randn(1, 3, 32, 32)
    if options.model is not None:
        import timm

        model, x = timm.create_model(options.model, pretrained=True).eval(), torch.randn(1, 3, 224, 224)
    compiled = haste_compiler.compile(model, (x,), config=TokenConfig(r=options.r), threads=1)
    report = haste_compiler.validate(model, compiled, x, time=False)
    print(report)
    print(f"{report.mac_reduction:.0%} of the multiply-adds saved, output error {report.max_rel_error:.1e}")


if __name__ == "__main__":
    main()
