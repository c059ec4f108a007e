"""In a compiled network the operators compute what they do in PyTorch, without PyTorch's help."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler.methods.tokens.ops.head_merge import HEAD_MERGE
from haste_compiler.methods.tokens.ops.httm_match import HTTM_MATCH
from haste_compiler.methods.tokens.ops.token_copy import TOKEN_COPY
from haste_compiler.methods.tokens.ops.token_merge import TOKEN_MERGE
from haste_compiler.methods.tokens.ops.tome_match import TOME_MATCH
from haste_compiler.ops.attention import ATTENTION


class Attending(nn.Module):
    """Attention of two heads between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.into(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def joined(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2))


class Merging(Attending):
    """Tokens merge after attention, by its keys; what becomes of them is added to all."""

    size: Tensor

    def __init__(self, merged: int, tokens: int) -> None:
        super().__init__()
        self.merged = merged
        self.register_buffer("size", torch.arange(1.0, tokens + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self.heads(x)
        y = x + self.joined(F.scaled_dot_product_attention(query, key, value))
        assignment = TOME_MATCH(key.mean(1), self.merged, 1)
        merged, size = TOKEN_MERGE(y, self.size.expand(x.shape[0], -1), assignment, x.shape[1] - self.merged)
        return x + TOKEN_COPY(self.out(merged), assignment), size


class ByHead(Attending):
    """Each head merges its own tokens, and copies them back."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.heads(x)
        frames = (3, 1, 4, 3)
        of_query, queries = HTTM_MATCH(query, *frames, 0.2, False, 0.1)
        of_key, keys = HTTM_MATCH(key, *frames, 0.3, True, 0.0)
        query, _ = HEAD_MERGE(query, of_query, queries, x.shape[1])
        room = 15
        merged, size = HEAD_MERGE(key, of_key, keys, room)
        values, _ = HEAD_MERGE(value, of_key, keys, room)
        y = ATTENTION(query, merged, values, size.log()[:, :, None], keys, 0.25, False, queries)
        return x + self.joined(TOKEN_COPY(y, of_query))


def check(model: nn.Module, tokens: int, dynamic: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, tokens, 32)
    compiled = haste_compiler.compile(model.eval(), (x,), fallback=False, cache=False, dynamic=dynamic)
    for images in (x, torch.randn(3, tokens, 32)) if dynamic else (x,):
        torch.testing.assert_close(compiled(images), model(images), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("merged", [0, 7])
@pytest.mark.parametrize("dynamic", [False, True])
def test_tokens_merge(merged: int, dynamic: bool) -> None:
    check(Merging(merged, 23), 23, dynamic)


@pytest.mark.parametrize("dynamic", [False, True])
def test_heads_merge(dynamic: bool) -> None:
    check(ByHead(), 27, dynamic)
