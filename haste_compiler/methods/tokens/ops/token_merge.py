"""``haste::token_merge``: means of the tokens that an assignment puts together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.tokens.reference.merging import merge
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::token_merge", mutates_args=())
def token_merge(x: Tensor, size: Tensor, assignment: Tensor, merged_to: int) -> tuple[Tensor, Tensor]:
    """``x`` (B, N, C) and ``size`` (B, N) to (B, M, C) and (B, M), M = ``merged_to``; see ``reference.merging``."""
    return merge(x, size, assignment, merged_to)


@token_merge.register_fake
def _(x: Tensor, size: Tensor, assignment: Tensor, merged_to: int) -> tuple[Tensor, Tensor]:
    batch, _, channels = x.shape
    return x.new_empty((batch, merged_to, channels)), size.new_empty((batch, merged_to))


TOKEN_MERGE = torch.ops.haste.token_merge.default


@dataclass(frozen=True)
class TokenMergeCall(OpCall):
    """A call of ``haste::token_merge``."""

    OP: ClassVar[Any] = TOKEN_MERGE

    x: fx.Node
    size: fx.Node
    assignment: fx.Node
    merged_to: int
