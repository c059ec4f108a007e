"""HTTM: every head merges its own tokens (Wang et al., arXiv 2511.21317)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from haste_compiler.errors import ConfigError
from haste_compiler.methods.tokens.reference.blocks import Blocks
from haste_compiler.methods.tokens.reference.merging import copy_back, merge, number_slots
from haste_compiler.methods.tokens.reference.similarity import most_similar


def most_outliers(heads: int, tokens: int, share: float) -> int:
    """How many tokens of all heads together stay alone as outliers.

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"a share of {share} of the tokens are outliers: allowed is 0, and less than 1")
    return int(share * heads * tokens)


def match_heads(x: Tensor, blocks: Blocks, outliers: float) -> tuple[Tensor, Tensor]:
    """Match each head's tokens within blocks: each source goes to its most similar destination.

    Then the sources that are farthest (2-norm) from the mean of what they would merge with stay alone: so many of all
    heads together, of equal ones first those of earlier heads, then of earlier tokens; a distance that isn't a number
    is the largest. Kept tokens keep their order.

    Args:
        x: (B, H, N, D).
        blocks: how tokens are cut.
        outliers: the share of an image's H·N tokens that stay alone beside destinations.

    Returns:
        Assignment int32 (B, H, N), and how many tokens each head keeps, int32 (B, H).
    """
    batch, heads, tokens, _ = x.shape
    destination = torch.arange(tokens, device=x.device).expand(batch, heads, tokens).clone()
    for block in blocks.cut():
        sources, destinations = (torch.tensor(part, device=x.device) for part in (block.sources, block.destinations))
        if len(sources):
            _, nearest = most_similar(x[:, :, sources], x[:, :, destinations])
            destination[:, :, sources] = destinations[nearest]
    own = torch.arange(tokens, device=x.device)
    kept = destination == own
    alone = most_outliers(heads, tokens, outliers)
    if alone:
        means, _ = merge(x, x.new_ones(x.shape[:-1]), destination.int(), tokens)
        distance = (x - copy_back(means, destination.int())).square().sum(-1)
        distance = distance.nan_to_num(nan=math.inf).masked_fill(kept, -1)
        farthest = distance.flatten(1).sort(dim=-1, descending=True, stable=True).indices[:, :alone]
        kept = kept.flatten(1).scatter(1, farthest, True).view_as(kept)
        destination = torch.where(kept, own, destination)
    return number_slots(kept, destination), kept.sum(-1, dtype=torch.int32)
