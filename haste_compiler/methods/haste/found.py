"""What grouping finds in the patches of one layer: the part of a HASTE convolution's cost that depends on the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry


@dataclass(frozen=True)
class Merging:
    """Some patches of a layer, with each conv group an entry of its own.

    Attributes:
        counts: float (entries, 6): singles, groups of two or more, their members, zeros, flat ones, and channels merged
            over both rounds, as ``count_channels`` counts them.
        on_border: bool (entries,): whether the patch reads padding.
    """

    counts: NDArray[np.float64]
    on_border: NDArray[np.bool_]

    @property
    def kept(self) -> float:
        """Share of the channels that is convolved: singles and one for each group."""
        return float(self.counts[:, :2].sum() / self.counts[:, [0, 2, 3, 4]].sum())

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
    counts = np.tile([kept * channels, 0.0, 0.0, (1 - kept) * channels, 0.0, 0.0], (len(border), 1))
    return Merging(counts, border)
