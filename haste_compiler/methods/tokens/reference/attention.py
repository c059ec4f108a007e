"""HTTM's attention from end to end, in the operators: match, merge, attend, copy back (arXiv 2511.21317)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from haste_compiler.methods.tokens.ops.head_merge import HEAD_MERGE
from haste_compiler.methods.tokens.ops.httm_match import HTTM_MATCH
from haste_compiler.methods.tokens.ops.token_copy import TOKEN_COPY
from haste_compiler.methods.tokens.reference.blocks import Blocks
from haste_compiler.methods.tokens.reference.heads import most_outliers
from haste_compiler.ops.attention import ATTENTION


@dataclass(frozen=True)
class HeadMerging:
    """How the tokens of global attention merge; the defaults are the paper's.

    Attributes:
        frames, protected, places, depth, anchored: see ``Blocks``.
        queries: the share of a block's queries that others merge into.
        outliers: the share of all heads' queries that stay alone beside these.
        keys: the share of a block's keys, and of their values, that others merge into.
        sized: merged keys weigh as many as they are: the logarithms of their sizes are added to scores.
    """

    frames: int
    protected: int
    places: int = 128
    depth: int = 30
    queries: float = 0.1
    outliers: float = 0.1
    keys: float = 0.3
    sized: bool = True
    anchored: bool = False

    def blocks(self, tokens: int, kept: float) -> Blocks:
        """How so many tokens are cut, a share of which is kept."""
        return Blocks(tokens, self.frames, self.protected, self.places, self.depth, kept, self.anchored)


def attend_merged(
    query: Tensor, key: Tensor, value: Tensor, scale: float, merging: HeadMerging, features: Tensor | None = None
) -> Tensor:
    """``softmax(scale * query @ keyᵀ) @ value`` of merged tokens, copied back to all.

    Args:
        query, key, value: (B, H, N, D) each.
        scale: of the products.
        merging: how tokens merge.
        features: (B, N, C), by which tokens are matched, alike for all heads, as methods before HTTM do; outliers are
            those of features too. None: each head matches its own queries and keys.

    Returns:
        (B, H, N, D).
    """
    heads, tokens = query.shape[1:3]

    def match(x: Tensor, kept: float, outliers: float) -> tuple[Tensor, Tensor, int]:
        """Assignment, lengths, and the slots there is room for."""
        x = x if features is None else features[:, None]
        cut = (merging.frames, merging.protected, merging.places, merging.depth, kept, merging.anchored)
        assignment, lengths = HTTM_MATCH(x, *cut, outliers)
        room = min(tokens, merging.blocks(tokens, kept).count + most_outliers(x.shape[1], tokens, outliers))
        if features is not None:
            assignment, lengths = assignment.expand(-1, heads, -1).clone(), lengths.expand(-1, heads).clone()
        return assignment, lengths, room

    of_queries, queries, room = match(query, merging.queries, merging.outliers)
    of_keys, keys, slots = match(key, merging.keys, 0.0)
    merged, _ = HEAD_MERGE(query, of_queries, queries, room)
    merged_key, size = HEAD_MERGE(key, of_keys, keys, slots)
    merged_value, _ = HEAD_MERGE(value, of_keys, keys, slots)
    mask = size.log()[:, :, None] if merging.sized else None
    y = ATTENTION(merged, merged_key, merged_value, mask, keys, scale, False, queries)
    return TOKEN_COPY(y, of_queries)
