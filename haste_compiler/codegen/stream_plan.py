"""What the code of a stream takes and tells beside the network's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

Described = tuple[tuple[int, ...], str]
"""Shape and dtype of a tensor."""


@dataclass(frozen=True)
class StreamLayer:
    """A layer of which a stream computes some tiles.

    Attributes:
        name: of the layer.
        side: of a tile of its outputs, in pixels.
        tiles: that there are, of all images.
        macs: multiply-adds of all of them.
        state: the number of the state, (1,) int32, that says how many the last frame took.
    """

    name: str
    side: int
    tiles: int
    macs: int
    state: int


@dataclass(frozen=True)
class StreamPlan:
    """What code of a stream takes behind the frame: the tolerances, (2,) float32, then the states.

    Attributes:
        states: their shapes and dtypes; they are zero before the first frame.
        layers: those of which tiles are computed, in order.
        most_work: part of their multiply-adds from which on the network itself takes less time for a frame.
    """

    states: tuple[Described, ...]
    layers: tuple[StreamLayer, ...]
    most_work: float = 1.0
