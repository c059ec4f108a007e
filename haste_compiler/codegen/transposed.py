"""Transposed convolutions in terms of plain ones, for every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry, Pair
from haste_compiler.graph.transposed import Axis, Phase, TransposedGeometry

Span = tuple[int, int]
"""First and last + 1 of some rows or columns."""


def plain_filters(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """(C, K/groups, kh, kw) to (K, C/groups, kh, kw), taps as they are."""
    channels, group_filters, *kernel = weight.shape
    split = weight.reshape(groups, channels // groups, group_filters, *kernel).transpose(0, 2, 1, 3, 4)
    return split.reshape(groups * group_filters, channels // groups, *kernel)


def phase_filters(filters: NDArray[np.float32], rows: Phase, columns: Phase) -> NDArray[np.float32]:
    """The filters (K, C/groups, …) of one phase down and across, from ``plain_filters``."""
    return filters[:, :, list(rows.taps)][:, :, :, list(columns.taps)]


@dataclass(frozen=True)
class PlainPhase:
    """One phase as a plain convolution.

    Attributes:
        geometry: of the convolution, of what is cut from the image.
        rows, columns: what is cut: the rest isn't read.
    """

    geometry: ConvGeometry
    rows: Span
    columns: Span

    @property
    def is_whole(self) -> bool:
        """Whether the whole image is read."""
        return (self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]) == self.geometry.input_size and (
            self.rows[0] == self.columns[0] == 0
        )


def plain_phase(geometry: TransposedGeometry, rows: Phase, columns: Phase) -> PlainPhase | None:
    """A phase as a plain convolution with as many outputs as the largest phase has; None: it reads nothing."""
    if not rows.taps or not columns.taps:
        return None
    cuts, padding, sizes = [], [], []
    for axis, phase in zip(geometry.axes, (rows, columns), strict=True):
        end = axis.count + phase.first + (len(phase.taps) - 1) * axis.spread
        cut = max(0, phase.first), min(axis.input_size, end)
        cuts.append(cut)
        sizes.append(cut[1] - cut[0])
        padding += [cut[0] - phase.first, end - cut[1]]
    plain = ConvGeometry(
        geometry.in_channels,
        geometry.out_channels,
        (len(rows.taps), len(columns.taps)),
        (1, 1),
        (padding[0], padding[1], padding[2], padding[3]),
        _pair([axis.spread for axis in geometry.axes]),
        geometry.groups,
        _pair(sizes),
        (1, 1),
    )
    return PlainPhase(plain, *cuts)


def one_pixel_filters(weight: NDArray[np.float32], geometry: TransposedGeometry) -> NDArray[np.float32] | None:
    """The matrix (OH · OW · K, C, 1, 1) whose product with an image of one pixel is the output, NHWC.

    None: the image has more pixels, or some outputs have no tap, or there are conv groups.
    """
    (top, left), (height, width) = geometry.padding, geometry.output_size
    if geometry.input_size != (1, 1) or geometry.dilation != (1, 1) or geometry.groups > 1:
        return None
    if top + height > geometry.kernel[0] or left + width > geometry.kernel[1]:
        return None
    taps = weight[:, :, top : top + height, left : left + width]
    return np.ascontiguousarray(taps.transpose(2, 3, 1, 0)).reshape(-1, geometry.in_channels, 1, 1)


@dataclass(frozen=True)
class Phased:
    """A transposed convolution cut into its phases; those that are neighbours in a row may be joined.

    Joined, they are one phase with the channels of all of them: an output row is as long, of wider pixels.

    Attributes:
        geometry: the transposed convolution.
        joined: the phases across are joined; see ``can_join``.
    """

    geometry: TransposedGeometry
    joined: bool

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The vertical and the horizontal axis."""
        vertical, horizontal = self.geometry.axes
        return vertical, self.geometry.aligned if self.joined else horizontal

    @property
    def across(self) -> tuple[tuple[Phase, ...], ...]:
        """The phases across, in tuples of those that are computed together."""
        phases = self.axes[1].phases
        return (phases,) if self.joined else tuple((phase,) for phase in phases)

    @property
    def channels(self) -> int:
        """Channels that are computed together."""
        return self.geometry.out_channels * len(self.across[0])

    @property
    def is_even(self) -> bool:
        """Whether all phases have the same numbers of output pixels."""
        return all(axis.is_even for axis in self.axes)

    @property
    def reading(self) -> ConvGeometry:
        """A plain convolution that reads what all phases read together, from the first pixel on."""
        (top, bottom), (left, right) = (axis.padding for axis in self.axes)
        kernel = _pair([axis.span + 1 for axis in self.axes])
        padding = (top, bottom, left, right)
        geometry = self.geometry
        channels = (geometry.in_channels, self.channels)
        return ConvGeometry(*channels, kernel, (1, 1), padding, (1, 1), geometry.groups, geometry.input_size, (1, 1))

    @property
    def taps(self) -> list[int]:
        """Taps of each phase, those down first."""
        return [len(rows.taps) * len(columns[0].taps) for rows in self.axes[0].phases for columns in self.across]

    def filters(self, weight: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The filters (channels, C/groups, …) of each phase, those down first, from the operator's."""
        plain = plain_filters(weight, self.geometry.groups)
        return [
            np.concatenate([phase_filters(plain, rows, each) for each in columns])
            for rows in self.axes[0].phases
            for columns in self.across
        ]

    def bias(self, bias: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The bias of every channel, from the operator's."""
        values = np.zeros(self.geometry.out_channels, np.float32) if bias is None else bias
        return np.tile(values, len(self.across[0]))

    def table(self) -> NDArray[np.int32]:
        """(phases, 5), those down first: row and column of the first pixel that it reads, from the first pixel that
        any reads; rows and columns of taps; taps of all phases before it. Columns count from the padding's edge."""
        vertical, horizontal = self.axes
        left, before, lines = horizontal.padding[0], 0, []
        for rows in vertical.phases:
            for columns, *_ in self.across:
                count = len(rows.taps), len(columns.taps)
                reads = 0 not in count
                down = rows.first - vertical.first if reads else 0
                lines.append((down, columns.first + left if reads else 0, *count, before))
                before += count[0] * count[1]
        return np.array(lines, np.int32)


def can_join(geometry: TransposedGeometry) -> bool:
    """Whether there are phases across that can be joined, because they read the same pixels."""
    return geometry.stride[1] > 1 and geometry.groups == 1 and geometry.aligned.is_uniform


def _pair(values: Sequence[int]) -> Pair:
    return values[0], values[1]
