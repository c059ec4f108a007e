"""Inputs and merged windows as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_compiler.methods.merged_channels import MergedChannels

MOST_SIDE = 400
"""Pixels of a picture: more would only make the page larger."""

GROUPS, MEMBERS = 6, 8
"""Groups and members of each that are shown."""

_COLOURS = 3


def as_rgba(image: NDArray[np.float32], grey: bool = False) -> NDArray[np.uint32]:
    """An input (C, H, W) as a picture for Bokeh, uint32 (H, W), the lowest row first.

    Values are spread from the image's least to its largest, so that any normalisation is undone. Of other numbers of
    channels than three the mean is shown.
    """
    height, width = image.shape[1:]
    step = -(-max(height, width) // MOST_SIDE)
    shown = np.nan_to_num(image[:, ::step, ::step].astype(np.float64))
    if len(shown) != _COLOURS or grey:
        shown = np.repeat(shown.mean(0, keepdims=True), _COLOURS, 0)
    least, most = shown.min(), shown.max()
    bytes_ = (255 * (shown - least) / max(most - least, 1e-12)).astype(np.uint8)
    return packed(np.moveaxis(bytes_, 0, -1))


def packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Red, green and blue (H, W, 3) as Bokeh takes pictures: opaque, the lowest row first."""
    height, width, _ = colours.shape
    whole = np.empty((height, width), np.uint32)
    parts = whole.view(np.uint8).reshape(height, width, 4)
    parts[..., :3], parts[..., 3] = colours[::-1], 255
    return whole


def group_colours(image: NDArray[np.float32], groups: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Each tile in the mean colour of its group, as a picture of one pixel a tile."""
    rows, columns = groups.shape
    rgba = as_rgba(image)
    height, width = rgba.shape
    pixels = rgba.view(np.uint8).reshape(height, width, 4)[::-1, :, :_COLOURS].astype(np.float64)
    owner = groups[np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)].ravel()
    count = np.maximum(np.bincount(owner, minlength=int(groups.max()) + 1), 1)
    means = [np.bincount(owner, pixels[..., colour].ravel(), len(count)) / count for colour in range(_COLOURS)]
    return packed(np.stack([mean[groups] for mean in means], -1).astype(np.uint8))


def mosaic(merged: MergedChannels) -> NDArray[np.uint8]:
    """A row a group: what is convolved, a gap, then the channels that it stands for; 0 where there is nothing.

    Returns:
        uint8 (rows, columns), the lowest row first, each group's values spread over 1 to 255. Whatever the windows'
        size, there are ``GROUPS`` rows of ``MEMBERS`` + 2 cells.
    """
    height, width = merged.groups[0].merged.shape
    picture = np.zeros((GROUPS * (height + 1), (MEMBERS + 2) * (width + 1)), np.uint8)
    for row, group in enumerate(merged.groups[:GROUPS]):
        cells: list[tuple[int, NDArray[Any]]] = [(0, group.merged)]
        cells += [(2 + place, window) for place, window in enumerate(group.windows[:MEMBERS])]
        for place, window in cells:
            top, left = row * (height + 1), place * (width + 1)
            picture[top : top + height, left : left + width] = _spread(window)
    return picture[::-1].copy()


def _spread(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values from their least to their largest as 1 to 255: each by itself: a group's differ by a factor."""
    least, most = float(values.min()), float(values.max())
    scaled: NDArray[np.uint8] = (1 + 254 * (values - least) / max(most - least, 1e-12)).astype(np.uint8)
    return scaled


def shown_channels(merged: MergedChannels) -> Sequence[tuple[tuple[int, ...], int]]:
    """Of each group that is shown the numbers of the channels that are, and how many others it has."""
    return [(group.channels[:MEMBERS], max(len(group.channels) - MEMBERS, 0)) for group in merged.groups[:GROUPS]]
