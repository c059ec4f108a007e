"""A small vision transformer in the spellings that libraries have, and what ToMe, as its paper says, makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention; ``style``: "fused" queries, keys and values, "separate", or "spelled" out by a softmax."""

    angles: Tensor

    def __init__(self, width: int, heads: int, style: str, qk_norm: bool, rotary: int) -> None:
        super().__init__()
        self.heads, self.style, self.rotary = heads, style, rotary
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm: nn.Module = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        if rotary:
            self.register_buffer("angles", torch.arange(rotary)[:, None] * torch.rand(width // heads // 2))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, N, D)."""
        if self.style == "separate":
            parts = [F.linear(x, w, b) for w, b in zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)]
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        else:
            q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        return (self.turn(q), self.turn(k), v) if self.rotary else (q, k, v)

    def turn(self, x: Tensor) -> Tensor:
        """Rotary embedding: halves are the two parts of complex numbers that turn with the place."""
        (a, b), c, s = x.chunk(2, -1), self.angles.cos(), self.angles.sin()
        return torch.cat((a * c - b * s, a * s + b * c), -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.style == "spelled":
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
            x = (scores if bias is None else scores + bias).softmax(-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, bias)
        return self.proj(x.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(*self.split(x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, style: str, qk_norm: bool, rotary: int, scale: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, style, qk_norm, rotary)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.ls1, self.ls2 = (nn.Parameter(torch.rand(width)) if scale else 1 for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1 * self.attn(self.norm1(x))
        return x + self.ls2 * self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A vision transformer.

    Args:
        side: of the image in patches of 4 × 4 pixels.
        fixed: class and register tokens.
        pool: what the head sees: "class" token, "mean" of the patches, or "dense", all tokens.
        style, qk_norm, rotary: of attention.
        scale: factors of each branch (LayerScale).
    """

    def __init__(
        self,
        side: int = 6,
        depth: int = 3,
        width: int = 32,
        heads: int = 4,
        fixed: int = 1,
        pool: str = "class",
        style: str = "fused",
        qk_norm: bool = False,
        rotary: bool = False,
        scale: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.fixed, self.pool, tokens = fixed, pool, side * side + fixed
        self.cls_token = nn.Parameter(torch.randn(1, fixed, width))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width))
        turned = tokens if rotary else 0
        self.blocks = nn.ModuleList(Block(width, heads, style, qk_norm, turned, scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def embed(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) if self.fixed else x
        return x + self.pos_embed

    def read(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.pool == "dense":
            return self.head(x).transpose(1, 2)
        return self.head(x[:, 0] if self.pool == "class" else x[:, self.fixed :].mean(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.read(x)


def vit(**options: object) -> Vit:
    """A network with the same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Vit(**options).eval()  # type: ignore[arg-type]


def images(count: int = 2, side: int = 24) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@dataclass
class Tokens:
    """One image's tokens (N, C), how many each stands for, and which each of the first tokens went to."""

    x: Tensor
    size: Tensor
    place: list[int]


def merge(tokens: Tokens, keys: Tensor, r: int, protected: int) -> Tokens:
    """ToMe's step, by loops: of two alternating sets the r most similar pairs become means; the rest keep their order.

    Args:
        tokens: N of them.
        keys: (H, N, D).
        r: how many merge.
        protected: how many of the first ones don't.
    """
    metric = F.normalize(keys.mean(0), dim=-1)
    count = len(metric)
    a = [i for i in range(protected, count) if i % 2 == 0]
    b = [i for i in range(protected, count) if i % 2 == 1]
    best = {i: max(b, key=lambda j: (metric[i] @ metric[j]).item()) for i in a}
    merged = sorted(a, key=lambda i: -(metric[i] @ metric[best[i]]).item())[:r]
    kept = [i for i in range(count) if i not in merged]
    total, size = tokens.x * tokens.size[:, None], tokens.size.clone()
    for i in merged:
        total[best[i]] += tokens.x[i] * tokens.size[i]
        size[best[i]] += tokens.size[i]
    slot = {i: kept.index(best[i] if i in merged else i) for i in range(count)}
    return Tokens(total[kept] / size[kept, None], size[kept], [slot[i] for i in tokens.place])


def tome(model: Vit, x: Tensor, r: list[int], protected: int) -> Tensor:
    """What a network returns if r[l] tokens merge between attention and MLP of block l (arXiv 2210.09461)."""
    outputs = []
    for image in model.embed(x):
        tokens = Tokens(image, image.new_ones(len(image)), list(range(len(image))))
        for block, count in zip(model.blocks, r, strict=True):
            assert isinstance(block, Block)
            q, k, v = block.attn.split(block.norm1(tokens.x[None]))
            tokens.x = tokens.x + (block.ls1 * block.attn.attend(q, k, v, tokens.size.log()[None]))[0]
            tokens = merge(tokens, k[0], count, protected)
            tokens.x = tokens.x + block.ls2 * block.mlp(block.norm2(tokens.x))
        outputs.append(model.read(tokens.x[tokens.place][None]))
    return torch.cat(outputs)


def relative(found: Tensor, expected: Tensor) -> float:
    """The relative difference, 2-norms."""
    return float((found - expected).norm() / expected.norm())
