"""``haste::head_copy``: what became of each head's merged tokens, for every token that went into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.tokens.reference.merging import copy_back
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::head_copy", mutates_args=())
def head_copy(y: Tensor, assignment: Tensor) -> Tensor:
    """``y`` (B, H, M, D) and ``assignment`` int32 (B, H, N) to (B, H, N, D)."""
    return copy_back(y, assignment)


@head_copy.register_fake
def _(y: Tensor, assignment: Tensor) -> Tensor:
    return y.new_empty((*assignment.shape, y.shape[-1]))


HEAD_COPY = torch.ops.haste.head_copy.default


@dataclass(frozen=True)
class HeadCopyCall(OpCall):
    """A call of ``haste::head_copy``."""

    OP: ClassVar[Any] = HEAD_COPY

    y: fx.Node
    assignment: fx.Node
