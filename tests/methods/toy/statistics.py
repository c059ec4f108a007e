"""What the layers of Toy did in one call."""

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
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.statistics import Tally


def record_of(layer: str, step: float, geometry: ConvGeometry) -> Record:
    """The record of a layer."""
    return Record("toy", (layer,), (step,), 1, {"geometry": dataclasses.asdict(geometry)})


@dataclass(frozen=True)
class ToyStats:
    """What one layer did with one batch.

    Attributes:
        geometry: the convolution's.
        zeros: float32 (N,): how many of each image's values are 0 after rounding.
    """

    geometry: ConvGeometry
    zeros: NDArray[np.float32]
    method: str = "toy"
    image_bound: float | None = None
    computed_plainly: bool = False

    @property
    def images(self) -> int:
        """Images in the batch, N."""
        return len(self.zeros)

    @property
    def values(self) -> int:
        """Values of one image that the layer reads."""
        return self.geometry.in_channels * math.prod(self.geometry.input_size)

    @property
    def tally(self) -> Tally:
        """The values that are left, and those that are nothing."""
        skipped = int(self.zeros.sum())
        return Tally("values", self.images * self.values - skipped, skipped=skipped)

    @property
    def macs(self) -> MacCount:
        """The products with nothing need not be done; rounding takes one for each value."""
        dense, tally = self.images * self.geometry.dense_macs, self.tally
        return MacCount(dense, rounding=tally.total, convolution=dense * tally.kept // tally.total)

    def inconsistency(self) -> str:
        """See ``LayerStatistics``."""
        most = self.zeros.max(initial=0)
        return f"counts {most:g} zeros in an image of {self.values} values" if most > self.values else ""


def read(record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]) -> dict[str, ToyStats]:
    """What a record's layer did; arguments as of ``Method.read``."""
    (layer,), (zeros,) = record.layers, statistics
    return {layer: ToyStats(ConvGeometry(**record.data["geometry"]), zeros)}
