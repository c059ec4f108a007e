"""``haste::merge``: the windows of each group, merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import window_geometry
from haste_compiler.methods.haste.ops.window import WINDOW, Ints, WindowCall
from haste_compiler.methods.haste.reference.merging import merge_windows
from haste_compiler.methods.haste.reference.windows import chunks, view_windows


@torch.library.custom_op(
    "haste::merge",
    mutates_args=(),
    schema=f"(Tensor x, Tensor slot, {WINDOW}, str merge) -> Tensor",
)
def merge_(  # noqa: PLR0913 - an operator's schema
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
    geometry = window_geometry(x.shape[1], x.shape[2:], (kernel, stride, padding, dilation, groups, patch))
    windows = view_windows(x, geometry)
    merged = x.new_empty(windows.shape)
    for images, rows in chunks(windows):
        piece = windows[images, rows]
        result = merge_windows(piece.flatten(4).flatten(0, 2), slot[images, rows].flatten(0, 2), merge)
        merged[images, rows] = result.view(piece.shape)
    return merged


@merge_.register_fake
def _(x: Tensor, slot: Tensor, *window_and_merge: Any) -> Tensor:
    geometry = window_geometry(x.shape[1], x.shape[2:], window_and_merge[:-1])
    return x.new_empty(x.shape[0], *geometry.patch_grid, x.shape[1], *geometry.window)


MERGE = torch.ops.haste.merge.default


@dataclass(frozen=True)
class MergeCall(WindowCall):
    """A call of ``haste::merge``."""

    OP: ClassVar[Any] = MERGE

    x: fx.Node
    slot: fx.Node
    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    patch: Ints
    merge: str
