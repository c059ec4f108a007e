"""Attention that may be computed in integers, and what rounding changes it by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from haste_compiler.graph.nodes import argument, is_call, is_tensor, shape_of
from haste_compiler.methods.quantized.ops.attention import QuantizedAttentionCall
from haste_compiler.methods.quantized.reference.attention import attend_integers

aten = torch.ops.aten

_QUERIES, _MATRICES = 256, 16
"""The most queries of a matrix, and matrices, that are looked at."""


def is_attention(node: fx.Node) -> bool:
    """Whether a node is attention of float32 matrices that are stacked alike, which the operator of integers takes."""
    if not is_call(node, aten.scaled_dot_product_attention.default) or 0 in shape_of(node):
        return False
    read = attention_inputs(node)
    values = [each.meta["val"] for each in read]
    leading = values[0].shape[:-2]
    alike = len(leading) > 0 and all(
        value.dim() == len(leading) + 2
        and all(statically_known_true(a == b) for a, b in zip(value.shape, leading, strict=False))
        for value in values[:3]
    )
    plain = not argument(node, 4, "dropout_p", 0.0) and not argument(node, 7, "enable_gqa", False)
    return alike and plain and all(value.dtype == torch.float32 for value in values)


def attention_inputs(node: fx.Node) -> list[fx.Node]:
    """Queries, keys and values, and the mask if there is one."""
    mask = argument(node, 3, "attn_mask")
    read: list[Any] = [*node.args[:3], *([mask] if is_tensor(mask) else [])]
    return read


def attention_call(node: fx.Node) -> QuantizedAttentionCall:
    """The call of integers that computes the same."""
    query, key, value, *masks = attention_inputs(node)
    given: Any = argument(node, 6, "scale")
    scale = 1 / math.sqrt(shape_of(query)[-1]) if given is None else float(given)
    causal = bool(argument(node, 5, "is_causal", False))
    return QuantizedAttentionCall(query, key, value, masks[0] if masks else None, scale, causal)


def attention_error(node: fx.Node, read: Sequence[Tensor]) -> float:
    """The relative error (2-norm) of attention in integers; some of its queries are looked at.

    Args:
        node: the attention.
        read: values of its ``attention_inputs``.
    """
    call = attention_call(node)
    query, key, value, *masks = read
    rank = query.dim()
    mask = None if not masks else masks[0][(None,) * (rank - masks[0].dim())]
    if call.causal:
        # Queries in the order of keys: a piece of them isn't causal any more.
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        hidden = torch.zeros(seen.shape).masked_fill(~seen, -math.inf)[(None,) * (rank - 2)]
        mask = hidden if mask is None else mask + hidden
    rows = torch.arange(0, query.shape[-2], math.ceil(query.shape[-2] / _QUERIES))
    query = query[..., rows, :]
    mask = mask[..., rows, :] if mask is not None and mask.shape[-2] > 1 else mask
    if mask is not None:
        mask = mask.expand(*query.shape[:-2], *mask.shape[-2:]).flatten(0, -3)[:_MATRICES]
    query, key, value = (each.flatten(0, -3)[:_MATRICES] for each in (query, key, value))
    exact = F.scaled_dot_product_attention(query, key, value, mask, scale=call.scale)
    found = attend_integers(query, key, value, mask, call.scale, causal=False)
    return float((found - exact).norm() / exact.norm().clamp(min=torch.finfo(torch.float32).tiny))
