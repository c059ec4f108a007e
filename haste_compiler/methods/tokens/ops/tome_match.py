"""``haste::tome_match``: which tokens merge, by ToMe's bipartite matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.tokens.reference.bipartite import match_bipartite
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::tome_match", mutates_args=())
def tome_match(metric: Tensor, merged: int, protected: int) -> Tensor:
    """``metric`` (B, N, C) to an assignment, int32 (B, N); see ``reference.bipartite``."""
    return match_bipartite(metric, merged, protected)


@tome_match.register_fake
def _(metric: Tensor, merged: int, protected: int) -> Tensor:
    return metric.new_empty(metric.shape[:-1], dtype=torch.int32)


TOME_MATCH = torch.ops.haste.tome_match.default


@dataclass(frozen=True)
class TomeMatchCall(OpCall):
    """A call of ``haste::tome_match``."""

    OP: ClassVar[Any] = TOME_MATCH

    metric: fx.Node
    merged: int
    protected: int
