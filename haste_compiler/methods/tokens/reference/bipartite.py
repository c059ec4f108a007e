"""ToMe's bipartite soft matching (Bolya et al., Token Merging: Your ViT But Faster, arXiv 2210.09461, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.errors import ConfigError
from haste_compiler.methods.tokens.reference.merging import number_slots
from haste_compiler.methods.tokens.reference.similarity import most_similar


def first_sources(protected: int) -> int:
    """The first token of set A: the first at an even place that isn't protected."""
    return protected + protected % 2


def first_destinations(protected: int) -> int:
    """The first token of set B: the first at an odd place that isn't protected."""
    return protected + 1 - protected % 2


def most_merged(tokens: int, protected: int) -> int:
    """How many of so many tokens can merge: the size of A, none where B is empty."""
    sources = len(range(first_sources(protected), tokens, 2))
    return sources if first_destinations(protected) < tokens else 0


def match_bipartite(metric: Tensor, merged: int, protected: int) -> Tensor:
    """The assignment under which the ``merged`` most similar pairs become one token each.

    Tokens at even places of the sequence are A, those at odd places B; the first ``protected`` are in neither. Places
    count from the first token of all, so one protected class token is what it is in ToMe: at an even place, and alone.
    Each token of A has one edge, to the most similar token of B. Of equal cosines the lower place goes first.

    Args:
        metric: (*leading, N, C): keys, the mean over heads.
        merged: how many tokens of A merge.
        protected: how many of the first tokens stay alone.

    Returns:
        int32 (*leading, N), slots 0 to N - merged - 1.

    Raises:
        ConfigError: so many tokens can't merge.
    """
    *leading, tokens, _ = metric.shape
    if not 0 <= merged <= (most := most_merged(tokens, protected)):
        raise ConfigError(f"{merged} of {tokens} tokens are to merge, {protected} protected: allowed are 0 to {most}")
    destination = torch.arange(tokens, device=metric.device).expand(*leading, tokens).clone()
    kept = torch.ones_like(destination, dtype=torch.bool)
    if merged:
        first = first_sources(protected), first_destinations(protected)
        sources, destinations = (metric[..., start::2, :] for start in first)
        cosine, nearest = most_similar(sources, destinations)
        # NaN never comes out of ``most_similar``, so the order is total.
        edges = cosine.sort(dim=-1, descending=True, stable=True).indices[..., :merged]
        places = first[0] + 2 * edges
        destination.scatter_(-1, places, first[1] + 2 * nearest.gather(-1, edges))
        kept.scatter_(-1, places, False)
    return number_slots(kept, destination)
