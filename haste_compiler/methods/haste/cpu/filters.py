"""A HASTE layer's filters as its convolution reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haste_compiler.codegen.cpu.kernels.conv2d import split_filters
from haste_compiler.codegen.cpu.tiling import RegisterTile


def pack_haste_filters(weight: NDArray[np.float32], groups: int, tile: RegisterTile) -> NDArray[np.float32]:
    """(K, C/groups, kh, kw) to [groups · K tiles][C/groups][kh · kw][tile channels], zero-padded, flat."""
    return np.ascontiguousarray(split_filters(weight, groups, tile).transpose(0, 2, 3, 4, 1)).reshape(-1)


def pack_tap_sums(weight: NDArray[np.float32], groups: int, tile: RegisterTile) -> NDArray[np.float32]:
    """Sums of each filter's taps, which carried means multiply: [groups · K tiles][C/groups][tile channels], flat."""
    total = weight.astype(np.float64).sum(axis=(2, 3), keepdims=True).astype(np.float32)
    return pack_haste_filters(total, groups, tile)
