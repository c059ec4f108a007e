"""Which pixels read alike windows: the definition in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.flat.labels import MOST_COMPUTED, UNKNOWN
from haste_compiler.methods.flat.reference.tiles import Tiling, holders_of


def label_windows(labels: Tensor, geometry: ConvGeometry) -> Tensor:
    """The labels (OH, OW), int32, of pixels that are computed from windows of an image with labels (H, W)."""
    keys: Sequence[tuple[int, ...]] = [] if labels[0, 0] == UNKNOWN else Tiling(geometry, 1).windows(labels)
    return labels_of(keys, geometry.output_size)


def labels_of(keys: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
    """Labels (H, W), int32: of each pixel the number of the first one with the same key.

    Nothing is known where there are no keys, or where more than ``MOST_COMPUTED`` of the pixels are the first.
    """
    numbers = holders_of(keys, [True] * len(keys))
    alone = sum(number == holder for number, holder in enumerate(numbers))
    most, of = MOST_COMPUTED
    if not keys or alone * of > len(keys) * most:
        return torch.full(size, UNKNOWN, dtype=torch.int32)
    return torch.tensor(numbers, dtype=torch.int32).view(size)
