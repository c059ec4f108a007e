"""How a convolution's narrow filters lie in memory, and what goes with each output channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.unit import ProductUnit
from haste_compiler.methods.quantized.reference.direct import follow_each_other


@dataclass(frozen=True)
class FilterLayout:
    """[groups · K tiles][kh][taps][steps][tile channels][group], zero where there is no channel or value.

    Where the unit cuts groups in parts, [tile channels][group] is [vectors][parts][lanes][part].

    The taps of a row are one where their values follow each other in memory: then few filters are padding, however few
    channels the image has.

    Attributes:
        geometry: the convolution's.
        channels: output channels of a tile.
        unit: what multiplies groups of neighbouring values.
    """

    geometry: ConvGeometry
    channels: int
    unit: ProductUnit

    @property
    def group(self) -> int:
        """Neighbouring values that are multiplied at once."""
        return self.unit.GROUP

    @property
    def is_fused(self) -> bool:
        """Whether the taps of a row are one."""
        return follow_each_other(self.geometry)

    @property
    def taps(self) -> int:
        """Of a row."""
        return 1 if self.is_fused else self.geometry.kernel[1]

    @property
    def length(self) -> int:
        """Values of one of the image's rows that a tap reads, one after the other."""
        channels = self.geometry.in_channels // self.geometry.groups
        return channels * self.geometry.kernel[1] if self.is_fused else channels

    @property
    def part(self) -> int:
        """Neighbouring filters of one output channel."""
        return self.group // self.unit.DEPTH

    def place(self, number: Any) -> Any:
        """Where a tap's filters of a value lie, by its number: those of a tile's first output channel."""
        step, part, rest = number // self.group, number % self.group // self.part, number % self.part
        return (step * self.channels * self.unit.DEPTH + part * self.unit.lanes) * self.part + rest

    @property
    def steps(self) -> int:
        """Products of ``group`` values that cover a tap."""
        return math.ceil(self.length / self.group)

    @property
    def group_tiles(self) -> int:
        """Tiles of the output channels of a conv group."""
        return math.ceil(self.geometry.out_channels // self.geometry.groups / self.channels)

    @property
    def tiles(self) -> int:
        """Tiles of all output channels."""
        return self.geometry.groups * self.group_tiles

    @property
    def tap_elements(self) -> int:
        """Filters of a tile from one tap to the next."""
        return self.steps * self.channels * self.group

    @property
    def row_elements(self) -> int:
        """Filters of a tile from one row of taps to the next."""
        return self.taps * self.tap_elements

    @property
    def tile_elements(self) -> int:
        """Filters of a tile."""
        return self.geometry.kernel[0] * self.row_elements

    def pack(self, weight: NDArray[Any]) -> NDArray[Any]:
        """(K, C / groups, kh, kw) as it lies in memory, flat."""
        kh = self.geometry.kernel[0]
        rows = self.split(weight).transpose(0, 3, 4, 2, 1).reshape(self.tiles, kh, self.taps, -1, self.channels)
        padding = self.steps * self.group - self.length
        padded = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, padding), (0, 0)))
        parts, lanes = self.unit.DEPTH, self.unit.lanes
        split = padded.reshape(self.tiles, kh, self.taps, self.steps, parts, -1, self.channels // lanes, lanes)
        return np.ascontiguousarray(split.transpose(0, 1, 2, 3, 6, 4, 7, 5)).reshape(-1)

    def pack_starts(self, weight: NDArray[np.int8], offset: int) -> NDArray[np.int32]:
        """What the sums of a row of taps start with where ``offset`` was added to the image's values.

        Returns:
            ``-offset · Σ filters``, [groups · K tiles][kh][tile channels], flat.
        """
        sums = self.split(weight.sum((1, 3), dtype=np.int32) * np.int32(-offset))
        return np.ascontiguousarray(sums.swapaxes(1, 2)).reshape(-1)

    def pack_channels(self, values: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """A value for each output channel, or none (zeros), (K,) to [groups · K tiles][tile channels], flat."""
        given = np.zeros(self.geometry.out_channels, np.float32) if values is None else values
        return self.split(given).reshape(-1)

    def split(self, values: NDArray[Any]) -> NDArray[Any]:
        """(K, ...) to (groups · K tiles, tile channels, ...), zero-padded."""
        groups, rest = self.geometry.groups, values.shape[1:]
        per_group = self.geometry.out_channels // groups
        padded = np.zeros((groups, self.group_tiles * self.channels, *rest), values.dtype)
        padded[:, :per_group] = values.reshape(groups, per_group, *rest)
        return padded.reshape(self.tiles, self.channels, *rest)


def filter_layout(geometry: ConvGeometry, channels: int, unit: ProductUnit) -> FilterLayout:
    """The layout for tiles of ``channels`` output channels, a multiple of the unit's lanes."""
    assert channels % unit.lanes == 0
    return FilterLayout(geometry, channels, unit)
