"""What grouping finds in the patches of one layer: the part of a HASTE convolution's cost that depends on the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import Counts


@dataclass(frozen=True)
class Merging:
    """Some patches of a layer, with each conv group an entry of its own.

    Attributes:
        counts: float (entries, 6), see ``Counts``.
        on_border: bool (entries,): whether the patch reads padding.
    """

    counts: NDArray[np.float64]
    on_border: NDArray[np.bool_]

    @property
    def found(self) -> Counts:
        """The counts by name, (entries,) each."""
        return Counts.split(self.counts)

    @property
    def total(self) -> Counts:
        """The counts of all patches together."""
        return Counts.split(self.counts.sum(axis=0))

    @property
    def kept(self) -> float:
        """Share of the channels that is convolved: singles and one for each group."""
        return float(self.total.kept / self.total.channels)

    @classmethod
    def joined(cls, parts: Sequence[Merging]) -> Merging:
        """All the patches of several."""
        return cls(np.concatenate([part.counts for part in parts]), np.concatenate([part.on_border for part in parts]))


def borders(geometry: ConvGeometry) -> NDArray[np.bool_]:
    """Which patches of an image read padding: bool (PH · PW,)."""
    rows, columns = geometry.patch_grid
    return np.array([geometry.reads_padding(row, column) for row in range(rows) for column in range(columns)])


def mostly_zero(geometry: ConvGeometry, kept: float) -> Merging:
    """Every patch with a share ``kept`` of channels alone, the others zero: the least that a HASTE layer can cost."""
    channels, border = geometry.in_channels / geometry.groups, borders(geometry)
    found = Counts(kept * channels, groups=0.0, members=0.0, zeros=(1 - kept) * channels, flats=0.0, merges=0.0)
    return Merging(np.tile(found, (len(border), 1)), border)
