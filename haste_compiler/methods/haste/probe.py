"""What merging to expect of a layer: a few patches of its input, hashed and grouped."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.found import Merging
from haste_compiler.methods.haste.reference.grouping import group_windows
from haste_compiler.methods.haste.reference.hashing import hash_windows
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.reference.merging import count_channels
from haste_compiler.methods.haste.reference.windows import view_windows, window_mask
from haste_compiler.methods.haste.settings import Settings

_PATCHES = 64


_MOST_ELEMENTS = 1 << 23


def probe(x: Tensor, geometry: ConvGeometry, filter_norm: Tensor, config: HasteConfig, layer: str) -> Merging:
    """Hash and group a few patches, evenly spread over a layer's input.

    Args:
        x: the input, (N, C, H, W).
        geometry: the layer's.
        filter_norm: |F_c|, (C,).
        config: the layer's.
        layer: the name that its hyperplanes are drawn for.
    """
    settings = Settings.of(config)
    windows = view_windows(x, geometry)
    total = math.prod(windows.shape[:3])
    most = max(1, min(_PATCHES, _MOST_ELEMENTS // max(1, math.prod(windows.shape[3:]))))
    picked = torch.arange(min(total, most)) * total // min(total, most)
    images, place = picked // math.prod(geometry.patch_grid), picked % math.prod(geometry.patch_grid)
    rows, columns = place // geometry.patch_grid[1], place % geometry.patch_grid[1]
    some = windows[images, rows, columns].flatten(2)
    planes = draw_hyperplanes(geometry.window_pixels, config.seed, layer, config.nonzeros)[: settings.num_hyperplanes]

    groups, merges = group_windows(
        some,
        hash_windows(some, planes, geometry.groups),
        filter_norm,
        window_mask(geometry)[rows, columns],
        merge=config.merge,
        skip=config.skip,
        tolerance=settings.tolerance,
        flat_tolerance=settings.flat_tolerance,
        groups=geometry.groups,
    )
    slot, offset, merges = (part[:, None, None] for part in (groups.slot, groups.offset, merges))
    counts = count_channels(slot, offset, geometry.groups, merges).flatten(0, 3)
    border = [geometry.reads_padding(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
    return Merging(counts.double().numpy(), np.repeat(border, geometry.groups))
