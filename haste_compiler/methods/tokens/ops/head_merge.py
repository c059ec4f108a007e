"""``haste::head_merge``: means of the tokens that each head's assignment puts together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.tokens.reference.merging import merge
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::head_merge", mutates_args=())
def head_merge(x: Tensor, assignment: Tensor, lengths: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Means of the tokens of each slot, and how many those are.

    Args:
        x: (B, H, N, D).
        assignment: int32 (B, H, N).
        lengths: int32 (B, H): how many slots have tokens, the first ones.
        slots: M: how many there is room for. What is past a head's length may be anything.

    Returns:
        (B, H, M, D) and float32 (B, H, M).
    """
    return merge(x, x.new_ones(x.shape[:-1]), assignment, slots)


@head_merge.register_fake
def _(x: Tensor, assignment: Tensor, lengths: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    batch, heads, _, width = x.shape
    return x.new_empty((batch, heads, slots, width)), x.new_empty((batch, heads, slots))


HEAD_MERGE = torch.ops.haste.head_merge.default


@dataclass(frozen=True)
class HeadMergeCall(OpCall):
    """A call of ``haste::head_merge``."""

    OP: ClassVar[Any] = HEAD_MERGE

    x: fx.Node
    assignment: fx.Node
    lengths: fx.Node
    slots: int
