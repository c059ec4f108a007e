"""``haste::quantized_attention``: attention whose products are of 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.quantized.reference.attention import attend_integers
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::quantized_attention", mutates_args=())
def quantized_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> Tensor:
    """``softmax(scale * query @ keyᵀ + mask) @ value``; see ``reference.attention``."""
    return attend_integers(query, key, value, mask, scale, causal=causal)


@quantized_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


QUANTIZED_ATTENTION = torch.ops.haste.quantized_attention.default


@dataclass(frozen=True)
class QuantizedAttentionCall(OpCall):
    """A call of ``haste::quantized_attention``."""

    OP: ClassVar[Any] = QUANTIZED_ATTENTION

    query: fx.Node
    key: fx.Node
    value: fx.Node
    mask: fx.Node | None
    scale: float
    causal: bool
