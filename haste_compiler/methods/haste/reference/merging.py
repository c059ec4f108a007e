"""Merging the windows of grouped channels, and rebuilding every channel from the merged ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from haste_compiler.methods.haste.counts import Counts


class Groups(NamedTuple):
    """What became of every channel of every patch; the three have one shape, (..., C).

    A channel's window is taken to be ``coeff * X[slot] + offset * M``, with X the merged windows and M the window's
    mask (1 on image pixels).

    Attributes:
        slot: int32, the lowest channel of the group, the channel itself where it is alone, -1 where it was dropped.
        coeff: float32, the coefficient on the group's window: 1 for channels alone and for ``merge="mean"``.
        offset: float32, the mean carried for a flat channel that was dropped, else 0.
    """

    slot: Tensor
    coeff: Tensor
    offset: Tensor


def merge_windows(windows: Tensor, slot: Tensor, merge: str) -> Tensor:
    """Merge the windows that share a slot into one.

    Args:
        windows: (B, C, q).
        slot: integer (B, C), see ``Groups``.
        merge: "mean" (of the members) or "projection" (their sum).

    Returns:
        (B, C, q): the group's window at its slot, zero at channels that are no slot.
    """
    kept = (slot >= 0).unsqueeze(-1)
    merged = torch.zeros_like(windows).flatten(0, 1)
    merged.index_add_(0, _flat_slot(slot), torch.where(kept, windows, 0).flatten(0, 1))
    merged = merged.view(windows.shape)
    if merge == "mean":
        merged /= group_sizes(slot).clamp(min=1).unsqueeze(-1)
    return merged


def group_sizes(slot: Tensor) -> Tensor:
    """Count the members of each slot: int64 (B, C) from (B, C), 0 at channels that are no slot."""
    sizes = torch.zeros(slot.shape, dtype=torch.int64, device=slot.device)
    return sizes.scatter_add_(1, slot.clamp(min=0).long(), (slot >= 0).long())


def gather_slots(values: Tensor, slot: Tensor) -> Tensor:
    """Return each channel's slot's row: (B, C, ...) from ``values`` (B, C, ...); dropped channels get any row."""
    return values.flatten(0, 1)[_flat_slot(slot)].view(values.shape)


def rebuild_windows(merged: Tensor, groups: Groups, mask: Tensor) -> Tensor:
    """Return what the convolution takes every channel's window to be, ``coeff * X[slot] + offset * M``.

    Args:
        merged: (B, C, q) from ``merge_windows``.
        groups: of the same patches, (B, C).
        mask: (B, q), 1 on image pixels.

    Returns:
        (B, C, q).
    """
    scaled = groups.coeff.unsqueeze(-1) * gather_slots(merged, groups.slot)
    carried = groups.offset.unsqueeze(-1) * mask.unsqueeze(1)
    return torch.where((groups.slot >= 0).unsqueeze(-1), scaled, carried)


def _flat_slot(slot: Tensor) -> Tensor:
    """Row of each channel's slot among B * C rows; a dropped channel's is its patch's first."""
    first = torch.arange(slot.shape[0], device=slot.device).unsqueeze(1) * slot.shape[1]
    return (first + slot.clamp(min=0)).flatten()


def count_channels(slot: Tensor, offset: Tensor, groups: int, merges: Tensor | None = None) -> Tensor:
    """Count what became of the channels of each patch and convolution group.

    A dropped channel that carries a mean of exactly 0 is counted as zero.

    Args:
        slot: integer (N, PH, PW, C), see ``Groups``.
        offset: float (N, PH, PW, C), see ``Groups``.
        groups: convolution groups G.
        merges: integer (N, PH, PW, C), how often each channel was merged, see ``group_windows``; None: members once.

    Returns:
        int64 (N, PH, PW, G, 6), see ``Counts``.
    """
    sizes = group_sizes(slot.flatten(0, 2)).view(slot.shape)
    merged = sizes >= 2
    members = sizes * merged
    dropped, carried = slot < 0, offset != 0
    counts = Counts(
        singles=sizes == 1,
        groups=merged,
        members=members,
        zeros=dropped & ~carried,
        flats=dropped & carried,
        merges=members if merges is None else merges,
    )
    return torch.stack([kind.long().unflatten(3, (groups, -1)).sum(dim=-1) for kind in counts], dim=-1)
