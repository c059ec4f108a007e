"""What the layers of the method did in one call."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_compiler.codegen.program import Record
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.config import integer
from haste_compiler.methods.flat.config import NAME
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.statistics import Tally

_STATISTICS = 2
_MOST = 2**31 - 1


@dataclass(frozen=True)
class FlatStats:
    """What one layer did with one batch.

    Attributes:
        geometry: the convolution's.
        tiles: of outputs of one image.
        counts: int32 (N, 2): of each image how many tiles were computed, and how many of those took another's values.
        squares: float32 (N,): of each image the square of the 2-norm of what those differed by.
    """

    geometry: ConvGeometry
    tiles: int
    counts: NDArray[np.int32]
    squares: NDArray[np.float32]

    @property
    def method(self) -> str:
        """The method's name."""
        return NAME

    @property
    def images(self) -> int:
        """Images in the batch, N."""
        return len(self.counts)

    @property
    def computed(self) -> int:
        """Tiles that were computed, of all images."""
        return int(self.counts[:, 0].sum())

    @property
    def tally(self) -> Tally:
        """Tiles that were computed, and copies."""
        return Tally("tiles", self.computed, merged=self.images * self.tiles - self.computed)

    @property
    def macs(self) -> MacCount:
        """Those of the tiles that were computed."""
        dense = self.images * self.geometry.dense_macs
        return MacCount(dense, convolution=dense * self.computed // max(1, self.images * self.tiles))

    @property
    def error(self) -> float:
        """The 2-norm of what the tolerance changed of the outputs, over all images."""
        return math.sqrt(float(self.squares.astype(np.float64).sum()))

    @property
    def image_bound(self) -> None:
        """What is known is the change after the activation, ``error``."""
        return None

    @property
    def computed_plainly(self) -> bool:
        """Whether there were too few copies in all images."""
        return self.computed == self.images * self.tiles

    def inconsistency(self) -> str:
        """Why these counts can't be true, in words; empty where they can."""
        computed, moved = self.counts[:, 0], self.counts[:, 1]
        if (computed >= moved).all() and (moved >= 0).all() and (computed <= self.tiles).all():
            return ""
        return f"counts {computed.tolist()} computed tiles, {moved.tolist()} of them moved, in images of {self.tiles}"


def record_of(layer: str, tolerance: float, geometry: ConvGeometry, tiles: int) -> Record:
    """The record of a layer."""
    data = {"geometry": dataclasses.asdict(geometry), "tiles": tiles}
    return Record(NAME, (layer,), (tolerance,), _STATISTICS, data)


def check(record: Record) -> None:
    """Check what a file says of a layer.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    ConvGeometry(**record.data["geometry"])
    integer("tiles", record.data["tiles"], 1, _MOST)
    if len(record.layers) != 1 or record.statistics != _STATISTICS:
        raise ValueError(f"{len(record.layers)} layers have {record.statistics} tensors of statistics")


def read(record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]) -> dict[str, FlatStats]:
    """What a record's layer did; arguments as of ``Method.read``."""
    (layer,), (counts, squares) = record.layers, statistics
    return {layer: FlatStats(ConvGeometry(**record.data["geometry"]), record.data["tiles"], counts, squares)}
