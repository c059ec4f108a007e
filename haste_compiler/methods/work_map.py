"""Where in an image a layer's work was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Source = Literal["statistics", "reference"]
"""Who says so: the kernels themselves, or the method's definition in plain PyTorch on what the layer read."""


@dataclass(frozen=True)
class WorkMap:
    """The share of a layer's work that was done in each tile of an image.

    Attributes:
        share: float32 (rows, columns), 0 to 1. Tiles cut the image evenly, but for a remainder at the right and lower
            end; see ``tile``.
        of: what work was saved on: "channels", "tiles" or "tokens".
        source: who says so.
        groups: int32 (rows, columns): tiles with the same number were computed as one; None: no two were.
        tile: height and width of a tile in pixels of the plane that ``plane`` is the size of.
        plane: height and width of the plane that is cut into tiles.
    """

    share: NDArray[np.float32]
    of: str
    source: Source
    groups: NDArray[np.int32] | None = None
    tile: tuple[int, int] = (1, 1)
    plane: tuple[int, int] = field(default=(0, 0))

    def __post_init__(self) -> None:
        """Tiles of one pixel each where nothing else is said."""
        if self.plane == (0, 0):
            rows, columns = self.share.shape
            object.__setattr__(self, "plane", (rows * self.tile[0], columns * self.tile[1]))

    @property
    def mean(self) -> float:
        """The share of all tiles together."""
        return float(self.share.mean())

    def over(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """The shares as an image of ``size`` (height, width): each pixel has that of the tile it lies in."""
        rows, columns = (
            np.minimum((np.arange(length) * whole // length) // side, count - 1)
            for length, whole, side, count in zip(size, self.plane, self.tile, self.share.shape, strict=True)
        )
        return self.share[np.ix_(rows, columns)]
