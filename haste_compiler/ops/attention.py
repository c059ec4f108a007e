"""``haste::attention``: attention of matrices that may have fewer queries and keys than there is room for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    scale: float,
    causal: bool,
    query_lengths: Tensor | None = None,
) -> Tensor:
    """``softmax(scale * query @ keyᵀ + mask) @ value``, without the keys past a matrix's length.

    A query that sees no key gets zeros. Merged tokens have the logarithms of their sizes as a mask (..., 1, keys).

    Args:
        query: (*leading, queries, width).
        key: (*leading, keys, width).
        value: (*leading, keys, features).
        mask: broadcasts to (*leading, queries, keys); minus infinity where a query doesn't see a key.
        lengths: int32, broadcasts to (*leading,): how many keys there are, the first ones; None: all.
        scale: of the products.
        causal: query i sees keys 0 to i only.
        query_lengths: int32, broadcasts to (*leading,): how many queries there are, the first ones; None: all. The rows
            of others may be anything.

    Returns:
        (*leading, queries, features).
    """
    queries, keys = query.shape[-2], key.shape[-2]
    number = torch.arange(keys, device=query.device)
    seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
    if causal:
        seen = number <= torch.arange(queries, device=query.device)[:, None]
    if lengths is not None:
        there = number < lengths[..., None]
        seen = seen & there[..., None, :]
        key, value = (tensor.masked_fill(~there[..., None], 0) for tensor in (key, value))
    scores = scale * (query @ key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    scores = scores.masked_fill(~seen, -math.inf)
    nothing = (scores == -math.inf).all(-1, keepdim=True)
    return torch.softmax(scores, -1).masked_fill(nothing, 0) @ value


@attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    scale: float,
    causal: bool,
    query_lengths: Tensor | None = None,
) -> Tensor:
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


ATTENTION = torch.ops.haste.attention.default


@dataclass(frozen=True)
class AttentionCall(OpCall):
    """A call of ``haste::attention``."""

    OP: ClassVar[Any] = ATTENTION

    query: fx.Node
    key: fx.Node
    value: fx.Node
    mask: fx.Node | None
    lengths: fx.Node | None
    scale: float
    causal: bool
    query_lengths: fx.Node | None = None
