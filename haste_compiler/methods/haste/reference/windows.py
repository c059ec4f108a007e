"""Cutting the windows that a convolution's patches read out of its input."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry

_CHUNK_ELEMENTS = 1 << 22
"""Window elements handled at once: their temporaries stay near 100 MB."""


def view_windows(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return every patch's window, overlapping ones sharing memory.

    Args:
        x: (N, C, H, W), of the geometry's channels and input size.

    Returns:
        Read-only view (N, PH, PW, C, qh, qw) of one padded copy of ``x``.
    """
    (rows, columns), (qh, qw), (down, across) = geometry.patch_grid, geometry.window, geometry.window_step
    top, _, left, _ = geometry.padding
    # Full patches end inside what the whole plane reads: cutting the copy there zeroes the rest of the edge windows.
    height = max(min(geometry.input_size[0], geometry.read_size[0] - top), 0)
    width = max(min(geometry.input_size[1], geometry.read_size[1] - left), 0)
    canvas = x.new_zeros(x.shape[0], x.shape[1], (rows - 1) * down + qh, (columns - 1) * across + qw)
    canvas[:, :, top : top + height, left : left + width] = x[:, :, :height, :width]
    return canvas.unfold(2, qh, down).unfold(3, qw, across).permute(0, 2, 3, 1, 4, 5)


def extract_windows(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return every patch's window, flattened: float (N, PH, PW, C, qh * qw) from ``x`` (N, C, H, W)."""
    return view_windows(x, geometry).flatten(4)


def window_mask(geometry: ConvGeometry, device: torch.device | None = None) -> Tensor:
    """Return which window pixels hold image: float32 (PH, PW, qh * qw), 0 in padding and beyond the last pixel read."""
    return extract_windows(torch.ones(1, 1, *geometry.input_size, device=device), geometry)[0, :, :, 0]


def chunks(windows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut ``view_windows``' result into pieces small enough to copy: slices of images, and of rows of patches."""
    images, rows = windows.shape[:2]
    per_row = max(windows[:1, :1].numel(), 1)
    if per_row * rows <= _CHUNK_ELEMENTS:
        step = _CHUNK_ELEMENTS // (per_row * rows)
        for start in range(0, images, step):
            yield slice(start, start + step), slice(None)
        return
    step = max(_CHUNK_ELEMENTS // per_row, 1)
    for image in range(images):
        for start in range(0, rows, step):
            yield slice(image, image + 1), slice(start, start + step)
