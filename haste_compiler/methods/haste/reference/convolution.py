"""Convolving with merged windows, and the whole HASTE convolution as one function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.reference.bound import error_bound
from haste_compiler.methods.haste.reference.grouping import filter_norms, group_windows
from haste_compiler.methods.haste.reference.hashing import hash_windows
from haste_compiler.methods.haste.reference.merging import Groups, count_channels, merge_windows, rebuild_windows
from haste_compiler.methods.haste.reference.windows import chunks, view_windows, window_mask
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.ops.activation import apply_epilogue


class HasteResult(NamedTuple):
    """A HASTE convolution's output and what was done to get it.

    Attributes:
        output: (N, K, OH, OW).
        groups: what became of every channel, (N, PH, PW, C) each.
        counts: int64 (N, PH, PW, G, 6), see ``count_channels``.
        bound: (N, PH, PW), bound on the 2-norm of each patch's error before the activation.
    """

    output: Tensor
    groups: Groups
    counts: Tensor
    bound: Tensor


def convolve_windows(windows: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    """Convolve windows each by itself: (B, K, sh, sw) from (B, C, qh * qw)."""
    images = windows.unflatten(2, geometry.window)
    return F.conv2d(images, weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)


def place_patches(output: Tensor, patches: Tensor, first_row: int) -> None:
    """Write patches into the output plane, cutting those at its bottom and right edges.

    Args:
        output: (n, K, OH, OW), written in place.
        patches: (n, rows, PW, K, sh, sw), whole rows of patches.
        first_row: row of patches to begin at.
    """
    plane = patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    top = first_row * patches.shape[4]
    target = output[:, :, top : top + plane.shape[2]]
    target.copy_(plane[:, :, : target.shape[2], : target.shape[3]])


def haste_conv2d(  # noqa: PLR0913 - public
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    planes: Tensor,
    settings: Settings,
    geometry: ConvGeometry,
    *,
    merge: str = "projection",
    skip: str = "flat",
    residual: Tensor | None = None,
    activation: str = "none",
) -> HasteResult:
    """Convolve the HASTE way, a few patches at a time so that memory stays bounded.

    Args:
        x: float32 (N, C, H, W), of the geometry's channels and input size.
        weight: (K, C / groups, kh, kw).
        bias: (K,) or None.
        planes: (at least ``settings.num_hyperplanes``, q) from ``draw_hyperplanes``.
        settings: hyperplanes in use and tolerances.
        geometry: of the convolution.
        merge: "mean" or "projection".
        skip: "none", "zeros" or "flat".
        residual: (N, K, OH, OW), added before the activation.
        activation: see ``apply_activation``.
    """
    windows = view_windows(x, geometry)
    patches, channels = windows.shape[:3], geometry.in_channels
    norms, planes = filter_norms(weight, geometry.groups), planes[: settings.num_hyperplanes]
    masks = window_mask(geometry, x.device)
    output = x.new_empty(x.shape[0], geometry.out_channels, *geometry.output_size)
    kept = Groups(
        x.new_empty(*patches, channels, dtype=torch.int32),
        x.new_empty(*patches, channels),
        x.new_empty(*patches, channels),
    )
    merges = x.new_empty(*patches, channels, dtype=torch.int64)
    bound = x.new_empty(patches)
    for images, rows in chunks(windows):
        piece = windows[images, rows]
        shape = piece.shape[:3]
        flat = piece.flatten(4).flatten(0, 2)
        mask = masks[rows].expand(*shape, -1).flatten(0, 2)
        groups, merged = group_windows(
            flat,
            hash_windows(flat, planes, geometry.groups),
            norms,
            mask,
            merge=merge,
            skip=skip,
            tolerance=settings.tolerance,
            flat_tolerance=settings.flat_tolerance,
            groups=geometry.groups,
        )
        rebuilt = rebuild_windows(merge_windows(flat, groups.slot, merge), groups, mask)
        result = convolve_windows(rebuilt, weight, bias, geometry).unflatten(0, shape)
        place_patches(output[images], result, rows.start or 0)
        for whole, part in zip(kept, groups, strict=True):
            whole[images, rows] = part.view(*shape, channels)
        merges[images, rows] = merged.view(*shape, channels)
        bound[images, rows] = error_bound(flat, rebuilt, norms, geometry.taps).view(shape)
    counts = count_channels(kept.slot, kept.offset, geometry.groups, merges)
    return HasteResult(apply_epilogue(output, residual, activation), kept, counts, bound)
