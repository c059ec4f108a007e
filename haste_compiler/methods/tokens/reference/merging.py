"""Merging tokens by an assignment, and copying what became of them back.

An assignment is int32 (*leading, N): for every token the slot, 0 to M - 1, of the merged token that it goes to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def number_slots(kept: Tensor, destination: Tensor) -> Tensor:
    """The assignment of tokens to those that are kept; these keep their order.

    Args:
        kept: bool (*leading, N).
        destination: int64 (*leading, N): for each token one that is kept, itself if it is.

    Returns:
        int32 (*leading, N).
    """
    return (kept.cumsum(-1) - 1).gather(-1, destination).int()


def merge(x: Tensor, size: Tensor, assignment: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Means of the tokens of each slot, weighted by their sizes, and the sums of the sizes.

    A token that is alone in its slot stays bit by bit what it is. A slot without tokens is zero, and so is its size.

    Args:
        x: (*leading, N, C).
        size: (*leading, N), positive.
        assignment: int32 (*leading, N).
        slots: M.

    Returns:
        (*leading, M, C) and (*leading, M).
    """
    places = assignment.long()
    total = size.new_zeros(*size.shape[:-1], slots).scatter_add(-1, places, size)
    share = size / total.gather(-1, places)
    zeros = x.new_zeros(*x.shape[:-2], slots, x.shape[-1])
    return zeros.scatter_add(-2, places[..., None].expand(x.shape), share[..., None] * x), total


def copy_back(y: Tensor, assignment: Tensor) -> Tensor:
    """For every token the row of its slot: (*leading, M, C) and int32 (*leading, N) to (*leading, N, C)."""
    return torch.gather(y, -2, assignment.long()[..., None].expand(*assignment.shape, y.shape[-1]))
