"""Deciding for every channel of a patch: dropped, merged with others, or computed alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from haste_compiler.methods.haste.reference.merging import Groups, gather_slots, group_sizes, merge_windows

LARGEST_ENERGY = 1e30
"""A patch with more energy than this (or NaN, or inf) is computed exactly: its squares could overflow float32."""


def filter_norms(weight: Tensor, groups: int) -> Tensor:
    """Return |F_c|, the Frobenius norm of what reads channel c in the filters (K, C / groups, kh, kw): (C,)."""
    return weight.unflatten(0, (groups, -1)).square().sum(dim=(1, 3, 4)).sqrt().flatten()


def group_windows(  # noqa: PLR0913 - public
    windows: Tensor,
    codes: Tensor,
    filter_norm: Tensor,
    mask: Tensor,
    *,
    merge: str,
    skip: str,
    tolerance: float,
    flat_tolerance: float,
    groups: int,
) -> tuple[Groups, Tensor]:
    """Drop the zero and flat channels, group the rest by code, and let those out that merging would damage.

    With ``rms`` the root of the mean over the convolution group's channels of |P_c|^2 |F_c|^2: a channel is flat if
    ``|P_c - d_c M| |F_c| <= flat_tolerance * rms``, d_c its mean over the image pixels; a member leaves its group if
    ``|P_c - a_c X_g| |F_c| > tolerance * rms``. The groups are then formed once more from those that stayed.
    Where the patch's energy (sum over c of |P_c|^2) or ``rms`` is not finite or too large, every channel is alone.

    Args:
        windows: (B, C, q).
        codes: int32 (B, C), not negative.
        filter_norm: (C,), |F_c|; for convolutions that share the grouping the root of the sum of their squares.
        mask: (B, q), 1 on image pixels.
        merge: "mean" or "projection".
        skip: "none", "zeros" or "flat".
        tolerance: at least 0; inf turns the check off.
        flat_tolerance: at least 0.
        groups: convolution groups; channels never meet across them.

    Returns:
        The groups, (B, C) each, and how often each channel was merged, int64 (B, C): twice where its group was formed
        again without another.
    """
    energy = windows.square().sum(dim=-1)
    rms = _group_mean(energy * filter_norm.square(), groups).sqrt()
    safe = (_group_mean(energy, groups) * (windows.shape[1] // groups) <= LARGEST_ENERGY) & rms.isfinite()
    dropped, offset = _drop(windows, energy, filter_norm, rms, mask, skip, flat_tolerance)
    dropped, offset = dropped & safe, torch.where(safe, offset, 0)

    slot = _form_groups(codes, ~safe, dropped, groups)
    coeff = _coefficients(windows, slot, merge)
    merged = _together(slot)
    merges = merged.long()
    if math.isfinite(tolerance):
        damage = _damage(windows, slot, coeff, merge) * filter_norm
        leaves = merged & (damage > tolerance * rms)
        lost = torch.zeros_like(merges).scatter_add_(1, slot.clamp(min=0), leaves.long())
        again = gather_slots(lost, slot) > 0
        slot = _form_groups(codes, ~safe | leaves, dropped, groups)
        coeff = _coefficients(windows, slot, merge)
        merges = merges + (_together(slot) & again).long()
    return Groups(slot.int(), coeff, offset), merges


def _group_mean(values: Tensor, groups: int) -> Tensor:
    """Mean over each convolution group's channels, given back to each channel: (B, C) to (B, C)."""
    per_group = values.unflatten(1, (groups, -1))
    return per_group.mean(dim=2, keepdim=True).expand_as(per_group).flatten(1)


def _drop(
    windows: Tensor, energy: Tensor, filter_norm: Tensor, rms: Tensor, mask: Tensor, skip: str, flat_tolerance: float
) -> tuple[Tensor, Tensor]:
    """Which channels are dropped, bool (B, C), and the means carried for them, (B, C)."""
    if skip == "none":
        return torch.zeros_like(energy, dtype=torch.bool), torch.zeros_like(energy)
    zero = energy == 0
    if skip == "zeros":
        return zero, torch.zeros_like(energy)
    mean = windows.sum(dim=-1) / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    spread = (windows - mean.unsqueeze(-1) * mask.unsqueeze(1)).square().sum(dim=-1).sqrt()
    flat = (spread * filter_norm <= flat_tolerance * rms) & ~zero
    return zero | flat, torch.where(flat, mean, 0)


def _form_groups(codes: Tensor, alone: Tensor, dropped: Tensor, groups: int) -> Tensor:
    """Slot of every channel, int64 (B, C): channels of one convolution group with one code share their lowest.

    Channels ``alone`` keep their own slot; those ``dropped`` get -1.
    """
    channels = torch.arange(codes.shape[1], device=codes.device)
    keys = torch.where(alone | dropped, -1 - channels, codes.long()).unflatten(1, (groups, -1))
    # A stable sort keeps channels in order within a run of equal keys, so that a run begins with its lowest.
    ordered, order = keys.sort(dim=2, stable=True)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    position = torch.arange(ordered.shape[2], device=codes.device)
    start = torch.where(begins, position, 0).cummax(dim=2).values
    lowest = torch.empty_like(order).scatter_(2, order, order.gather(2, start))
    first = channels.unflatten(0, (groups, -1))[:, :1]
    return torch.where(dropped, -1, (lowest + first).flatten(1))


def _together(slot: Tensor) -> Tensor:
    """Which channels share their slot with another, bool (B, C)."""
    return (slot >= 0) & (gather_slots(group_sizes(slot), slot) >= 2)


def _coefficients(windows: Tensor, slot: Tensor, merge: str) -> Tensor:
    """Coefficient of every channel on its group's window, (B, C): 1 where it is alone, 0 where it was dropped."""
    kept = (slot >= 0).to(windows.dtype)
    if merge == "mean":
        return kept
    merged = merge_windows(windows, slot, merge)
    square = gather_slots(merged.square().sum(dim=-1), slot)
    dot = (windows * gather_slots(merged, slot)).sum(dim=-1)
    share = torch.where(square > 0, dot / square, 0)
    return torch.where(_together(slot), share, 1) * kept


def _damage(windows: Tensor, slot: Tensor, coeff: Tensor, merge: str) -> Tensor:
    """|P_c - a_c X_g| of every channel that was not dropped, (B, C)."""
    group = gather_slots(merge_windows(windows, slot, merge), slot)
    return (windows - coeff.unsqueeze(-1) * group).square().sum(dim=-1).sqrt()
