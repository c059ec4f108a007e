"""What the HASTE layers of a compiled network did in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_compiler.codegen.program import Record
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import Counts
from haste_compiler.methods.haste.cpu.sampling import Sampling, sampling
from haste_compiler.methods.haste.macs import count_macs
from haste_compiler.methods.haste.record import NAME, Grouping
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.statistics import Tally
from haste_compiler.methods.work_map import WorkMap


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
    def method(self) -> str:
        """The method's name."""
        return NAME

    @property
    def channels(self) -> int:
        """Channels seen: input channels times patches times images."""
        return int(np.prod(self.counts.shape[:3])) * self.geometry.in_channels

    @property
    def kept(self) -> float:
        """Share of the channels that was convolved: singles and one for each group."""
        return self.tally.kept / max(1, self.channels)

    @property
    def merged(self) -> float:
        """Share of the channels that was merged into another."""
        return self.tally.merged / max(1, self.channels)

    @property
    def skipped(self) -> float:
        """Share of the channels that was dropped: all zero, or flat with the mean carried."""
        return self.tally.skipped / max(1, self.channels)

    @property
    def tally(self) -> Tally:
        """The channels of all patches: numbers of (image, patch, channel)."""
        found = self._sums()
        return Tally("channels", found.kept, found.members - found.groups, found.zeros + found.flats)

    @property
    def error_bound(self) -> float:
        """Bound on the 2-norm of the layer's whole output error, before the activation."""
        return math.sqrt(float(np.square(self.bound.astype(np.float64)).sum()))

    @property
    def image_bound(self) -> float:
        """The same of the image where it is largest: patches and conv groups write different outputs."""
        squares = np.square(np.asarray(self.bound, np.float64).reshape(max(self.images, 1), -1)).sum(axis=1)
        return float(np.sqrt(squares.max(initial=0.0)))

    @property
    def computed_plainly(self) -> bool:
        """``gave_up``."""
        return self.gave_up

    def work_map(self, image: int) -> WorkMap:
        """The share of the channels of each patch of an image that was convolved."""
        found = Counts.split(np.asarray(self.counts[image]).sum(axis=2, dtype=np.int64))
        share = (found.kept / max(1, self.geometry.in_channels)).astype(np.float32)
        return WorkMap(
            share, "channels", "statistics", tile=self.geometry.effective_patch, plane=self.geometry.output_size
        )

    def inconsistency(self) -> str:
        """Why these counts can't be true, in words; empty where they can: every channel is accounted for once."""
        rows, columns = self.geometry.patch_grid
        channels = self.images * rows * columns * self.geometry.in_channels
        counted = self._sums().channels
        if np.asarray(self.counts).min(initial=0) >= 0 and counted == channels:
            return ""
        return f"accounts for {counted} channels of patches, of {channels}"

    def _sums(self) -> Counts:
        """The counts of all patches and conv groups together."""
        counts = np.asarray(self.counts)
        return Counts(*(int(count) for count in counts.reshape(-1, counts.shape[-1]).sum(axis=0, dtype=np.int64)))


def read(record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]) -> dict[str, LayerStats]:
    """What the layers that share a grouping did, by name, from the tensors that their kernels wrote.

    Args:
        record: of the grouping.
        values: its parameters in that call.
        statistics: counts, bound, and what was chosen if the grouping is gated.
    """
    grouping, settings = Grouping.of(record), Settings.read(values)
    counts, bound, *chosen = statistics
    gave_up = grouping.gated and not chosen[0].any()
    stats = {}
    for position, (name, geometry) in enumerate(zip(record.layers, grouping.geometries, strict=True)):
        images = bound.size // (math.prod(geometry.patch_grid) * geometry.groups)
        shape = (images, *geometry.patch_grid, geometry.groups)
        shaped = counts.reshape(*shape, counts.shape[-1]).copy()
        macs = count_macs(
            geometry,
            shaped,
            settings.num_hyperplanes,
            grouping.merge,
            math.isfinite(settings.tolerance),
            grouping.skip,
            grouping.nonzeros,
        )
        if gave_up:
            macs = _of_samples(macs, sampling(geometry, images))
        if position:
            macs = _without_grouping(macs)
        scaled = bound.reshape(shape) * np.float32(math.sqrt(geometry.taps))
        stats[name] = LayerStats(name, geometry, images, shaped, scaled, macs, gave_up)
    return stats


def _of_samples(macs: MacCount, sampled: Sampling) -> MacCount:
    """The count of a layer that was given up after some of its patches were hashed."""
    part = {name: getattr(macs, name) * sampled.samples // sampled.tasks for name in ("hashing", "centring", "norms")}
    return macs.replace(**part)


def _without_grouping(macs: MacCount) -> MacCount:
    """The count of a layer whose grouping another layer has paid for."""
    return macs.replace(hashing=0, centring=0, norms=0, coefficients=0, merge_inputs=0)
