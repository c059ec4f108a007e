"""``haste::token_copy``: what became of merged tokens, for every token that went into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.tokens.reference.merging import copy_back
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::token_copy", mutates_args=())
def token_copy(y: Tensor, assignment: Tensor) -> Tensor:
    """``y`` (B, M, C) and ``assignment`` int32 (B, N) to (B, N, C); or by head, (B, H, M, D) and (B, H, N)."""
    return copy_back(y, assignment)


@token_copy.register_fake
def _(y: Tensor, assignment: Tensor) -> Tensor:
    return y.new_empty((*assignment.shape, y.shape[-1]))


TOKEN_COPY = torch.ops.haste.token_copy.default


@dataclass(frozen=True)
class TokenCopyCall(OpCall):
    """A call of ``haste::token_copy``."""

    OP: ClassVar[Any] = TOKEN_COPY

    y: fx.Node
    assignment: fx.Node
