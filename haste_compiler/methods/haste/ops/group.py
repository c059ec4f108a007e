"""``haste::group``: what becomes of every channel of every patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import window_geometry
from haste_compiler.methods.haste.ops.window import WINDOW, Ints, WindowCall
from haste_compiler.methods.haste.reference.grouping import group_windows
from haste_compiler.methods.haste.reference.merging import Groups
from haste_compiler.methods.haste.reference.windows import chunks, view_windows, window_mask
from haste_compiler.methods.haste.settings import Settings


@torch.library.custom_op(
    "haste::group",
    mutates_args=(),
    schema=f"(Tensor x, Tensor codes, Tensor filter_norm, Tensor settings, {WINDOW}, str merge, str skip) "
    "-> (Tensor, Tensor, Tensor)",
)
def group(  # noqa: PLR0913 - an operator's schema
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
    geometry = window_geometry(x.shape[1], x.shape[2:], (kernel, stride, padding, dilation, groups, patch))
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


GROUP = torch.ops.haste.group.default


@dataclass(frozen=True)
class GroupCall(WindowCall):
    """A call of ``haste::group``."""

    OP: ClassVar[Any] = GROUP

    x: fx.Node
    codes: fx.Node
    filter_norm: fx.Node
    settings: fx.Node
    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    patch: Ints
    merge: str
    skip: str
