"""``haste::hash``: a code for every channel of every patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import window_geometry
from haste_compiler.methods.haste.ops.window import WINDOW, Ints, WindowCall
from haste_compiler.methods.haste.reference.hashing import hash_windows
from haste_compiler.methods.haste.reference.windows import chunks, view_windows
from haste_compiler.methods.haste.settings import Settings


@torch.library.custom_op(
    "haste::hash",
    mutates_args=(),
    schema=f"(Tensor x, Tensor planes, Tensor settings, {WINDOW}) -> Tensor",
)
def hash_(  # noqa: PLR0913 - an operator's schema
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
    geometry = window_geometry(x.shape[1], x.shape[2:], (kernel, stride, padding, dilation, groups, patch))
    planes = planes[: Settings.unpack(settings).num_hyperplanes]
    windows = view_windows(x, geometry)
    codes = x.new_empty(windows.shape[:4], dtype=torch.int32)
    for images, rows in chunks(windows):
        piece = windows[images, rows]
        codes[images, rows] = hash_windows(piece.flatten(4).flatten(0, 2), planes, groups).view(piece.shape[:4])
    return codes


@hash_.register_fake
def _(x: Tensor, planes: Tensor, settings: Tensor, *window: Any) -> Tensor:
    geometry = window_geometry(x.shape[1], x.shape[2:], window)
    return x.new_empty(x.shape[0], *geometry.patch_grid, x.shape[1], dtype=torch.int32)


HASH = torch.ops.haste.hash.default


@dataclass(frozen=True)
class HashCall(WindowCall):
    """A call of ``haste::hash``."""

    OP: ClassVar[Any] = HASH

    x: fx.Node
    planes: fx.Node
    settings: fx.Node
    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    patch: Ints
