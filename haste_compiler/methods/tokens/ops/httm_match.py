"""``haste::httm_match``: which tokens of each head merge, within blocks of neighbours in space and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.tokens.reference.blocks import Blocks
from haste_compiler.methods.tokens.reference.heads import match_heads
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::httm_match", mutates_args=())
def httm_match(
    x: Tensor, frames: int, protected: int, places: int, depth: int, kept: float, anchored: bool, outliers: float
) -> tuple[Tensor, Tensor]:
    """``x`` (B, H, N, D) to an assignment, int32 (B, H, N), and the tokens that heads keep, int32 (B, H).

    Arguments are those of ``reference.blocks.Blocks`` and ``reference.heads.match_heads``.
    """
    blocks = Blocks(x.shape[2], frames, protected, places, depth, kept, anchored)
    return match_heads(x, blocks, outliers)


@httm_match.register_fake
def _(
    x: Tensor, frames: int, protected: int, places: int, depth: int, kept: float, anchored: bool, outliers: float
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:3], dtype=torch.int32), x.new_empty(x.shape[:2], dtype=torch.int32)


HTTM_MATCH = torch.ops.haste.httm_match.default


@dataclass(frozen=True)
class HttmMatchCall(OpCall):
    """A call of ``haste::httm_match``."""

    OP: ClassVar[Any] = HTTM_MATCH

    x: fx.Node
    frames: int
    protected: int
    places: int
    depth: int
    kept: float
    anchored: bool
    outliers: float

    def blocks(self, tokens: int) -> Blocks:
        """How so many tokens are cut."""
        return Blocks(tokens, self.frames, self.protected, self.places, self.depth, self.kept, self.anchored)
