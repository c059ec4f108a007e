"""A small transformer of VGGT's structure, and what merging the tokens of its global attention changes.

`python examples/vggt.py PHOTOS.npz`: frames are windows that move over photographs, `images` (N, H, W, 3) in the file.
Weights are random; keys are made partly as queries are, so that tokens attend to those that look like them.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler.methods.tokens.reference.attention import HeadMerging, attend_merged

REGISTERS = 4
SPECIAL = 1 + REGISTERS
"""Tokens of a frame that are no patches: the camera's and registers."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of query, key and value (B, H, N, D), and of the tokens (B, N, C) that they were made of."""


class Rotary2d(nn.Module):
    """A 2-d rotary embedding: half of a head's features turn by the row, half by the column."""

    def __init__(self, base: float = 100.0) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn ``x`` (B, H, N, D) by positions (N, 2)."""
        half = x.shape[-1] // 2
        # As the original: the table is as long as the largest position says.
        length = int(positions.max()) + 1
        frequencies = self.base ** -(torch.arange(0, half, 2, dtype=torch.float32) / half)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        table = torch.cat([angles, angles], -1)
        parts = [self._turned(part, table, positions[:, axis]) for axis, part in enumerate(x.chunk(2, -1))]
        return torch.cat(parts, -1)

    def _turned(self, x: Tensor, table: Tensor, positions: Tensor) -> Tensor:
        cosines, sines = F.embedding(positions, table.cos()), F.embedding(positions, table.sin())
        first, second = x.chunk(2, -1)
        return x * cosines + torch.cat([-second, first], -1) * sines


class Block(nn.Module):
    """Attention with normed queries and keys, and an MLP."""

    def __init__(self, dim: int, heads: int, alike: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = nn.LayerNorm(dim // heads), nn.LayerNorm(dim // heads)
        self.rope = Rotary2d()
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        with torch.no_grad():
            query, key, _ = self.qkv.weight.chunk(3)
            key.mul_((1 - alike**2) ** 0.5).add_(alike * query)

    def forward(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Tokens (B, N, C) to as many."""
        tokens = self.norm1(x)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.rope(self.q_norm(query), positions), self.rope(self.k_norm(key), positions)
        x = x + self.proj(attend(query, key, value, tokens).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Vggt(nn.Module):
    """Frames attend to themselves and to all frames by turns.

    Args:
        dim: features of a token.
        heads: of each attention.
        depth: blocks of each kind.
        patch: side of a patch, pixels.
        alike: how much of a key is made as a query is, 0 to 1.
        merging: of global attention; None: nothing merges.
        uniform: all heads merge the same tokens, matched by what attention reads.
    """

    def __init__(
        self,
        dim: int = 256,
        heads: int = 4,
        depth: int = 3,
        *,
        patch: int = 8,
        alike: float = 0.7,
        merging: HeadMerging | None = None,
        uniform: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.merging, self.uniform = patch, merging, uniform
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.special = nn.Parameter(torch.randn(1, SPECIAL, dim))
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList([Block(dim, heads, alike) for _ in range(depth)]) for _ in range(2)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, S, 3, H, W) to tokens (B, S, N, 2 C): of the last block of each kind."""
        batch, count, _, height, width = frames.shape
        patches = self.embed(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        x = torch.cat([self.special.expand(batch * count, -1, -1), patches], 1)
        grid = torch.cartesian_prod(torch.arange(height // self.patch), torch.arange(width // self.patch)) + 1
        positions = torch.cat([torch.zeros(SPECIAL, 2, dtype=torch.int64), grid])
        of_frame = x
        for in_frame, across in zip(self.frame_blocks, self.global_blocks, strict=True):
            of_frame = in_frame(x, positions, _attend)
            x = across(of_frame.unflatten(0, (batch, count)).flatten(1, 2), positions.repeat(count, 1), self._attend)
            x = x.unflatten(1, (count, -1)).flatten(0, 1)
        return torch.cat([of_frame, x], -1).unflatten(0, (batch, count))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
        if self.merging is None:
            return _attend(query, key, value, tokens)
        features = tokens if self.uniform else None
        return attend_merged(query, key, value, query.shape[-1] ** -0.5, self.merging, features)


def _attend(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


class Motion(NamedTuple):
    """Pixels that the window moves by from frame to frame."""

    down: int
    right: int


MOTIONS = {"still": Motion(0, 0), "slow": Motion(1, 2), "fast": Motion(4, 9)}


def moving(photograph: Tensor, motion: Motion, count: int, side: int) -> Tensor:
    """Frames (1, count, 3, side, side) of a window that moves over a photograph (3, H, W)."""
    corners = [(frame * motion.down, frame * motion.right) for frame in range(count)]
    return torch.stack([photograph[:, top : top + side, left : left + side] for top, left in corners])[None]


def error(model: Vggt, frames: Tensor, merging: HeadMerging, *, uniform: bool) -> float:
    """The relative error (2-norm) of a model's output under merging."""
    model.merging = None
    exact = model(frames)
    model.merging, model.uniform = merging, uniform
    found = model(frames)
    model.merging = None
    return float((found - exact).norm() / exact.norm())


def settings(frames: int, tokens: int) -> dict[str, tuple[HeadMerging, bool]]:
    """What is compared, all with a fifth of the queries and three tenths of the keys."""
    by_head = HeadMerging(frames, SPECIAL)
    # Matched in all tokens at once, with the first frame as destinations, as FastVGGT does.
    uniform = dataclasses.replace(by_head, places=tokens, depth=frames, queries=0.2, outliers=0.0, anchored=True)
    return {
        "HTTM": (by_head, False),
        "HTTM, sizes not weighed": (dataclasses.replace(by_head, sized=False), False),
        "HTTM, first frame kept": (dataclasses.replace(by_head, anchored=True), False),
        "HTTM, blocks of 5 frames": (dataclasses.replace(by_head, depth=5), False),
        "HTTM, no outliers": (dataclasses.replace(by_head, queries=0.2, outliers=0.0), False),
        "uniform": (uniform, True),
        "uniform, sizes not weighed": (dataclasses.replace(uniform, sized=False), True),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print errors by motion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs")
    parser.add_argument("--count", type=int, default=3, help="photographs")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--side", type=int, default=112, help="of a frame, pixels")
    given = parser.parse_args(arguments)
    images = torch.tensor(np.load(given.photographs)["images"][: given.count]).permute(0, 3, 1, 2) / 127.5 - 1
    torch.manual_seed(0)
    model = Vggt().eval()
    with torch.inference_mode():
        for motion, step in MOTIONS.items():
            for name, (merging, uniform) in settings(given.frames, (given.side // model.patch) ** 2).items():
                errors = [
                    error(model, moving(image, step, given.frames, given.side), merging, uniform=uniform)
                    for image in images
                ]
                print(f"{motion:8}{name:30}{sum(errors) / len(errors):.4f}", flush=True)


if __name__ == "__main__":
    main()
