"""Tokens that merge within an attention and are copied back, against the same step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.tokens.config import TokenConfig
from haste_compiler.methods.tokens.ops.token_merge import TOKEN_MERGE
from haste_compiler.methods.tokens.sites import plan
from tests.methods.tokens.networks import Attention, Block, Tokens, images, merge, relative, vit

MANY: dict[str, Any] = {"mode": "local", "cost_model": False}


class Merged(Attention):
    """Attention of merged queries, keys and values; its result is copied back."""

    r, protected = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.of_image(image[None]) for image in x])

    def of_image(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        count = q.shape[2]

        def merged(values: Tensor) -> Tokens:
            rows = values[0].transpose(0, 1).flatten(1)
            return merge(Tokens(rows, rows.new_ones(count), list(range(count))), k[0], self.r, self.protected)

        all_merged = [merged(each) for each in (q, k, v)]
        q, k, v = (each.x.unflatten(1, (self.heads, -1)).transpose(0, 1)[None] for each in all_merged)
        x = F.scaled_dot_product_attention(q, k, v, all_merged[0].size.log()[None])
        return self.proj(x.transpose(1, 2).flatten(2)[:, all_merged[0].place])


@pytest.mark.parametrize("options", [{}, {"rotary": True, "pool": "dense"}, {"style": "spelled", "fixed": 0}])
def test_attention_of_merged_tokens(options: dict[str, Any]) -> None:
    options = {"pool": "mean", "depth": 2, **options}
    model, expected, x = vit(**options), vit(**options), images()
    for block in expected.blocks:
        assert isinstance(block, Block)
        block.attn.__class__ = Merged
        assert isinstance(block.attn, Merged)
        block.attn.r, block.attn.protected = 9, model.fixed
    gm = run_passes(capture(model, (x,)), [TokenConfig(r=9, **MANY)])
    with torch.no_grad():
        assert relative(gm(x), expected(x)) < 1e-5
        assert relative(gm(x), model(x)) > 1e-4
    assert sum(is_call(node, TOKEN_MERGE) for node in gm.graph.nodes) == 6


def reasons(model: nn.Module, x: Tensor, **fields: Any) -> list[str]:
    gm = run_passes(capture(model, (x,)), [])
    return list(plan(gm, TokenConfig(mode="local", **fields)).unfit.values())


def test_few_tokens_are_not_worth_it() -> None:
    (first, *_) = reasons(vit(depth=1), images(), r=2)
    assert "take more than is saved" in first


class Biased(nn.Module):
    """Attention with a bias of every pair of tokens, such as Swin's."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.bias = Attention(32, 4, "spelled", False, 0), nn.Parameter(torch.randn(4, 37, 37))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn.attend(*self.attn.split(x), self.bias)


def test_a_bias_by_place_stays() -> None:
    assert reasons(Biased().eval(), torch.randn(1, 37, 32), r=9) == ["it has a mask or bias by the tokens' places"]


def test_half_of_the_tokens_by_default() -> None:
    gm = run_passes(capture(vit(fixed=0, pool="mean"), (images(),)), [])
    found = plan(gm, TokenConfig(**MANY)).mergings
    assert [layer_name(node) for node in found] == [f"blocks.{number}.attn" for number in range(3)]
    assert all(merging.count == 18 for merging in found.values())  # type: ignore[union-attr]
