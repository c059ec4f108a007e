"""Attention whose products are of integers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from haste_compiler.methods.quantized.reference.rounding import UNSIGNED, quantize

WHOLE, BLOCK = 256, 128
"""Keys of a block: all of them up to the first number, else the second."""


def block_of(keys: int) -> int:
    """The keys of a block."""
    return keys if keys <= WHOLE else BLOCK


def attend_integers(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, *, causal: bool
) -> Tensor:
    """``softmax(scale * query @ keyᵀ + mask) @ value``, both products of integers of 8 bits.

    Queries and keys are rounded by row (``quantize``). Keys come in blocks (``block_of``). In each the powers of a
    query's scores less the largest in the block are rounded to 255ths, and values by feature. Sums over a block are
    integers. Blocks are added up by their largest scores, and divided by the sum of the powers as they were.

    A query that sees no key gets zeros. Where a row of queries or keys, or a block's values of a feature, aren't
    finite, everything that reads them is NaN.

    Args:
        query: (*leading, queries, width), float32.
        key: (*leading, keys, width).
        value: (*leading, keys, features).
        mask: float32, broadcasts to (*leading, queries, keys).
        scale: of the products.
        causal: query i sees keys 0 to i only.

    Returns:
        (*leading, queries, features), float32.
    """
    (queries, of_query), (keys, of_key) = _rounded(query, -1), _rounded(key, -1)
    scores = (queries @ keys.mT) * (of_query * scale) * of_key.mT
    if mask is not None:
        scores = scores + mask
    if causal:
        rows, columns = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(), -math.inf)
    # A row of nothing but minus infinity has powers of zero.
    least = torch.finfo(torch.float32).min
    largest = scores.amax(-1, keepdim=True).clamp(min=least)
    total, sums = torch.zeros_like(largest), query.new_zeros((), dtype=torch.float64)
    block = block_of(key.shape[-2])
    for start in range(0, key.shape[-2], block):
        part = scores[..., start : start + block]
        own = part.amax(-1, keepdim=True).clamp(min=least)
        powers, share = (part - own).exp(), (own - largest).exp()
        values, of_value = _rounded(value[..., start : start + block, :], -2)
        weights = (powers.nan_to_num() * UNSIGNED).round()
        sums = sums + share * ((weights @ values) * (of_value / UNSIGNED))
        total = total + share * powers.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.0, sums / total).float()


def _rounded(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Integers and scales, both float64; zeros and NaN where a scale isn't finite."""
    integers, scales = quantize(values, (axis,))
    finite = scales.isfinite()
    return torch.where(finite, integers, 0.0), torch.where(finite, scales, math.nan).double()
