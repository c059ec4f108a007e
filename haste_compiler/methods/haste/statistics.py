"""What the HASTE layers of a compiled network did in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.macs import MacCount


@dataclass(frozen=True)
class LayerStats:
    """What one HASTE layer did with one batch, as its kernel counted it.

    Attributes:
        name: the layer's qualified name.
        geometry: its shapes.
        images: batch size N.
        counts: int (N, PH, PW, conv groups, 6): singles, groups of two or more, their members, zeros, flat ones, and
            channels merged over both rounds of grouping.
        bound: float (N, PH, PW, conv groups): bound on the 2-norm of each patch's output error, before the activation.
        macs: multiply-adds, dense and spent, for the batch. Of layers that share a grouping the first bears its cost.
        gave_up: a few patches showed that merging doesn't pay on this batch, and the plain convolution was computed;
            all channels then count as alone.
    """

    name: str
    geometry: ConvGeometry
    images: int
    counts: NDArray[np.int32]
    bound: NDArray[np.float32]
    macs: MacCount
    gave_up: bool = False

    @property
    def channels(self) -> int:
        """Channels seen: input channels times patches times images."""
        return int(np.prod(self.counts.shape[:3])) * self.geometry.in_channels

    @property
    def kept(self) -> float:
        """Share of the channels that was convolved: singles and one for each group."""
        return float(self.counts[..., 0].sum() + self.counts[..., 1].sum()) / max(1, self.channels)

    @property
    def merged(self) -> float:
        """Share of the channels that was merged into another."""
        return float(self.counts[..., 2].sum() - self.counts[..., 1].sum()) / max(1, self.channels)

    @property
    def skipped(self) -> float:
        """Share of the channels that was dropped: all zero, or flat with the mean carried."""
        return float(self.counts[..., 3].sum() + self.counts[..., 4].sum()) / max(1, self.channels)

    @property
    def error_bound(self) -> float:
        """Bound on the 2-norm of the layer's whole output error, before the activation."""
        return math.sqrt(float(np.square(self.bound.astype(np.float64)).sum()))
