"""The HASTE convolution as custom operators, so that it can be captured, rewritten and lowered step by step.

``y = convolve(merge(x, slot), slot, coeff, offset, ...)`` with ``codes = hash(x, ...)`` and
``slot, coeff, offset = group(x, codes, ...)``. Convolutions that read the same windows share all but the last.
Each has a fake implementation and runs on any device that PyTorch has; none is differentiable.

In all of them ``padding`` is (top, bottom, left, right), ``settings`` is float32 (3,) as ``Settings.pack`` writes it,
and ``patch`` is the patch in output pixels as asked for; see ``ConvGeometry`` for PH, PW, qh and qw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.config import MAX_HYPERPLANES
from haste_compiler.haste.convolution import apply_epilogue, convolve_windows, place_patches
from haste_compiler.haste.geometry import window_geometry
from haste_compiler.haste.grouping import group_windows
from haste_compiler.haste.hashing import hash_windows
from haste_compiler.haste.hyperplanes import draw_hyperplanes
from haste_compiler.haste.merging import Groups, merge_windows, rebuild_windows
from haste_compiler.haste.settings import Settings
from haste_compiler.haste.windows import chunks, view_windows, window_mask

Ints = Sequence[int]

_WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups, int[] patch"


@torch.library.custom_op(
    "haste::conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation) -> Tensor",
)
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> Tensor:
    """Convolve plainly: ``activation(conv(x) + bias + residual)``, (N, K, OH, OW) from (N, C, H, W)."""
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        y = F.conv2d(x, weight, bias, list(stride), [top, left], list(dilation), groups)
    else:
        y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, list(stride), 0, list(dilation), groups)
    return apply_epilogue(y, residual, activation)


@conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> Tensor:
    geometry = window_geometry(
        x.shape[1], x.shape[2:], weight.shape[2:], stride, padding, dilation, groups, (1, 1), weight.shape[0]
    )
    return x.new_empty(x.shape[0], weight.shape[0], *geometry.output_size)


@torch.library.custom_op(
    "haste::hyperplanes",
    mutates_args=(),
    schema="(int window_pixels, int seed, str layer, Device device, int? nonzeros=None) -> Tensor",
)
def hyperplanes(window_pixels: int, seed: int, layer: str, device: torch.device, nonzeros: int | None = None) -> Tensor:
    """Draw a layer's hyperplanes, (30, window_pixels), where their number is known only once the input's size is."""
    return _cached_hyperplanes(window_pixels, seed, layer, nonzeros).to(device, copy=True)


@hyperplanes.register_fake
def _(window_pixels: int, seed: int, layer: str, device: torch.device, nonzeros: int | None = None) -> Tensor:
    return torch.empty(MAX_HYPERPLANES, window_pixels, device=device)


_cached_hyperplanes = lru_cache(maxsize=256)(draw_hyperplanes)


@torch.library.custom_op(
    "haste::hash",
    mutates_args=(),
    schema=f"(Tensor x, Tensor planes, Tensor settings, {_WINDOW}) -> Tensor",
)
def hash_(
    x: Tensor,
    planes: Tensor,
    settings: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
) -> Tensor:
    """Hash every channel of every patch: codes int32 (N, PH, PW, C) from ``x`` (N, C, H, W), ``planes`` (30, q)."""
    geometry = window_geometry(x.shape[1], x.shape[2:], kernel, stride, padding, dilation, groups, patch)
    planes = planes[: Settings.unpack(settings).num_hyperplanes]
    windows = view_windows(x, geometry)
    codes = x.new_empty(windows.shape[:4], dtype=torch.int32)
    for images, rows in chunks(windows):
        piece = windows[images, rows]
        codes[images, rows] = hash_windows(piece.flatten(4).flatten(0, 2), planes, groups).view(piece.shape[:4])
    return codes


@hash_.register_fake
def _(x: Tensor, planes: Tensor, settings: Tensor, *window: Any) -> Tensor:
    geometry = window_geometry(x.shape[1], x.shape[2:], *window)
    return x.new_empty(x.shape[0], *geometry.patch_grid, x.shape[1], dtype=torch.int32)


@torch.library.custom_op(
    "haste::group",
    mutates_args=(),
    schema=f"(Tensor x, Tensor codes, Tensor filter_norm, Tensor settings, {_WINDOW}, str merge, str skip) "
    "-> (Tensor, Tensor, Tensor)",
)
def group(
    x: Tensor,
    codes: Tensor,
    filter_norm: Tensor,
    settings: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
    merge: str,
    skip: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Group the channels of every patch by code: slot int32, coeff, offset float32, (N, PH, PW, C) each."""
    geometry = window_geometry(x.shape[1], x.shape[2:], kernel, stride, padding, dilation, groups, patch)
    now = Settings.unpack(settings)
    windows, masks = view_windows(x, geometry), window_mask(geometry, x.device)
    whole = Groups(
        torch.empty_like(codes), torch.empty_like(codes, dtype=x.dtype), torch.empty_like(codes, dtype=x.dtype)
    )
    for images, rows in chunks(windows):
        piece = windows[images, rows]
        parts, _ = group_windows(
            piece.flatten(4).flatten(0, 2),
            codes[images, rows].flatten(0, 2),
            filter_norm,
            masks[rows].expand(*piece.shape[:3], -1).flatten(0, 2),
            merge=merge,
            skip=skip,
            tolerance=now.tolerance,
            flat_tolerance=now.flat_tolerance,
            groups=groups,
        )
        for target, part in zip(whole, parts, strict=True):
            target[images, rows] = part.view(piece.shape[:4])
    return whole


@group.register_fake
def _(x: Tensor, codes: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(codes), torch.empty_like(codes, dtype=x.dtype), torch.empty_like(codes, dtype=x.dtype)


@torch.library.custom_op(
    "haste::merge",
    mutates_args=(),
    schema=f"(Tensor x, Tensor slot, {_WINDOW}, str merge) -> Tensor",
)
def merge_(
    x: Tensor,
    slot: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
    merge: str,
) -> Tensor:
    """Merge the windows of each group into its slot: (N, PH, PW, C, qh, qw), zero at channels that are no slot."""
    geometry = window_geometry(x.shape[1], x.shape[2:], kernel, stride, padding, dilation, groups, patch)
    windows = view_windows(x, geometry)
    merged = x.new_empty(windows.shape)
    for images, rows in chunks(windows):
        piece = windows[images, rows]
        result = merge_windows(piece.flatten(4).flatten(0, 2), slot[images, rows].flatten(0, 2), merge)
        merged[images, rows] = result.view(piece.shape)
    return merged


@merge_.register_fake
def _(x: Tensor, slot: Tensor, *window_and_merge: Any) -> Tensor:
    geometry = window_geometry(x.shape[1], x.shape[2:], *window_and_merge[:-1])
    return x.new_empty(x.shape[0], *geometry.patch_grid, x.shape[1], *geometry.window)


@torch.library.custom_op(
    "haste::convolve",
    mutates_args=(),
    schema="(Tensor merged, Tensor slot, Tensor coeff, Tensor offset, Tensor weight, Tensor? bias, Tensor? residual, "
    "int[] input_size, int[] stride, int[] padding, int[] dilation, int groups, int[] patch, str activation) -> Tensor",
)
def convolve(
    merged: Tensor,
    slot: Tensor,
    coeff: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
    activation: str,
) -> Tensor:
    """Convolve merged windows (N, PH, PW, C, qh, qw) with merged filters: (N, K, OH, OW), epilogue applied."""
    geometry = window_geometry(
        merged.shape[3], input_size, weight.shape[2:], stride, padding, dilation, groups, patch, weight.shape[0]
    )
    masks = window_mask(geometry, merged.device)
    output = merged.new_empty(merged.shape[0], weight.shape[0], *geometry.output_size)
    for images, rows in chunks(merged):
        piece = merged[images, rows]
        parts = Groups(*(part[images, rows].flatten(0, 2) for part in (slot, coeff, offset)))
        mask = masks[rows].expand(*piece.shape[:3], -1).flatten(0, 2)
        rebuilt = rebuild_windows(piece.flatten(4).flatten(0, 2), parts, mask)
        patches = convolve_windows(rebuilt, weight, bias, geometry)
        place_patches(output[images], patches.unflatten(0, piece.shape[:3]), rows.start or 0)
    return apply_epilogue(output, residual, activation)


@convolve.register_fake
def _(
    merged: Tensor,
    slot: Tensor,
    coeff: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
    activation: str,
) -> Tensor:
    geometry = window_geometry(
        merged.shape[3], input_size, weight.shape[2:], stride, padding, dilation, groups, patch, weight.shape[0]
    )
    return merged.new_empty(merged.shape[0], weight.shape[0], *geometry.output_size)
