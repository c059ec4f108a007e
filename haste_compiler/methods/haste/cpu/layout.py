"""What grouping hands to the convolution: shapes of the tensors, and how a patch's windows lie in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from haste_compiler.codegen.dynamic import Batch, DynamicBatch
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS

_MOST_KEPT_BYTES = 64 << 20
"""Of a layer's windows: those of large images would take several times the memory of the layer's input."""

_KEPT_PATCHES = 4
"""Patches a thread that are kept whatever they take: so few are shared evenly only if output channels are cut too."""


@dataclass(frozen=True)
class GroupLayout:
    """Shapes of what grouping hands to the convolution; if the batch is dynamic, patches are (batch, of an image).

    Attributes:
        windows: (patches, conv groups, rows, window pixels padded to whole vectors): C/groups channels, room for
            C/groups // 2 sums of groups, and the mask of pixels on the image, written where flat channels need it.
            Of a dynamic batch only so many images' as are kept; None if no patch's are.
        order: (patches, conv groups, C/groups) int32, channels in the order members, singles, flats, zeros.
        coeff: the same shape, float32: a_c of members, d_c of flats.
        starts: (patches, conv groups, C/groups // 2 + 1) int32, where each group's members start in ``order``; after
            the last group, where they end.
        rows: the same shape, the row of ``windows`` that holds each group's sum; after the last group, the mask's.
        counts: (patches, conv groups, 6) int32, see ``Counts``.
        bound: (patches, conv groups) float32, sum of |F_c| · |P_c - P̂_c|.
    """

    windows: tuple[Any, ...] | None
    order: tuple[Any, ...]
    coeff: tuple[Any, ...]
    starts: tuple[Any, ...]
    rows: tuple[Any, ...]
    counts: tuple[Any, ...]
    bound: tuple[Any, ...]

    def tensors(self) -> list[tuple[str, tuple[Any, ...], str]]:
        """(name, shape, dtype) in the kernels' argument order."""
        return [
            *([("windows", self.windows, FLOAT32.dtype)] if self.windows else []),
            ("order", self.order, "int32"),
            ("coeff", self.coeff, FLOAT32.dtype),
            ("starts", self.starts, "int32"),
            ("rows", self.rows, "int32"),
            ("counts", self.counts, "int32"),
            ("bound", self.bound, FLOAT32.dtype),
        ]


def window_rows(channels: int) -> int:
    """Rows of one patch's windows: channels, sums of groups, the mask."""
    return mask_row(channels) + 1


def mask_row(channels: int) -> int:
    """The row of a patch's windows that holds the mask of pixels on the image; the sums of groups lie before it."""
    return channels + channels // 2


def row_floats(geometry: ConvGeometry, lanes: int) -> int:
    """Floats of one channel's window, padded to whole vectors."""
    return -(-geometry.window_pixels // lanes) * lanes


def kept_images(geometry: ConvGeometry, lanes: int, threads: int) -> int:
    """Images of a call whose windows are kept from one kernel to the other.

    Of a call with more images nobody's are: a thread has memory for one patch, and the convolution makes each patch's
    windows again. A few patches a thread are always kept: they may be large, but not much larger than one a thread.
    """
    tasks = math.prod(geometry.patch_grid) * geometry.groups
    window_floats = window_rows(geometry.in_channels // geometry.groups) * row_floats(geometry, lanes)
    return max(_MOST_KEPT_BYTES // (FLOAT32.bytes * tasks * window_floats), _KEPT_PATCHES * threads // tasks)


def may_restore(batch: Batch, kept: int | None) -> bool:
    """Whether there are calls that keep no windows; ``kept`` is ``kept_images``, or None to keep all."""
    return kept is not None and (isinstance(batch, DynamicBatch) or batch > kept)


def group_layout(geometry: ConvGeometry, batch: Batch, lanes: int, kept: int | None = None) -> GroupLayout:
    """The shapes for one layer; ``kept`` is ``kept_images``, or None to keep all windows."""
    of_image = geometry.patch_grid[0] * geometry.patch_grid[1]
    patches = (batch, of_image) if isinstance(batch, DynamicBatch) else (batch * of_image,)
    groups, channels = geometry.groups, geometry.in_channels // geometry.groups
    stored: tuple[Any, ...] | None = patches
    if may_restore(batch, kept):
        stored = (kept * of_image,) if isinstance(batch, DynamicBatch) and kept else None
    return GroupLayout(
        windows=None if stored is None else (*stored, groups, window_rows(channels), row_floats(geometry, lanes)),
        order=(*patches, groups, channels),
        coeff=(*patches, groups, channels),
        starts=(*patches, groups, channels // 2 + 1),
        rows=(*patches, groups, channels // 2 + 1),
        counts=(*patches, groups, len(COUNTS)),
        bound=(*patches, groups),
    )


def reads_padding(geometry: ConvGeometry, top: Expr, left: Expr, rows: Expr, columns: Expr) -> Expr:
    """Whether the outputs of the patch whose window begins at (top, left) read a pixel off the image."""
    (kh, kw), (dh, dw), (sh, sw) = geometry.kernel, geometry.dilation, geometry.stride
    bottom, right = top + (rows - 1) * sh + (kh - 1) * dh, left + (columns - 1) * sw + (kw - 1) * dw
    return tirx.any(top < 0, left < 0, bottom >= geometry.input_size[0], right >= geometry.input_size[1])
