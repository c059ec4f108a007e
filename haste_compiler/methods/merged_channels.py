"""Channels of a patch that a method took as one, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that became one.

    Attributes:
        channels: their numbers.
        windows: float32 (channels, height, width): what each of them holds there.
        merged: float32 (height, width): what is convolved in their place.
    """

    channels: tuple[int, ...]
    windows: NDArray[np.float32]
    merged: NDArray[np.float32]


@dataclass(frozen=True)
class MergedChannels:
    """The groups of one patch of a layer's input.

    Attributes:
        patch: row and column of the patch, of the grid that the layer's ``WorkMap`` has.
        groups: the largest first.
    """

    patch: tuple[int, int]
    groups: tuple[ChannelGroup, ...]
