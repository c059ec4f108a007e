"""What grouping a layer's channels on a card hands from kernel to kernel."""

from __future__ import annotations

from dataclasses import dataclass

from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS, Counts

MOST_CHANNELS = 2048
"""Input channels of a conv group whose lists fit a block's shared memory."""

_LEAST_PIXELS = 32
"""Pixels of a window that are worth a block of their own."""

_BLOCKS = 3
"""Blocks for each multiprocessor, so that some compute while others wait for memory."""

_MOST_PARTS = 16
"""Parts whose sums a thread adds up in one go."""


@dataclass(frozen=True)
class GroupLayout:
    """One layer's grouping, and the shapes of its tensors; ``entries`` stands for (patches, conv groups).

    Attributes:
        geometry, batch: the layer.
        planes: hyperplanes in the table.
        parts: blocks that share a window's pixels.
    """

    geometry: ConvGeometry
    batch: int
    planes: int = 0
    parts: int = 1

    @property
    def patches(self) -> int:
        """Patches of all images."""
        return self.batch * self.geometry.patch_grid[0] * self.geometry.patch_grid[1]

    @property
    def entries(self) -> int:
        """Windows that are grouped: those of all patches and conv groups."""
        return self.patches * self.geometry.groups

    @property
    def channels(self) -> int:
        """Input channels of a conv group."""
        return self.geometry.in_channels // self.geometry.groups

    @property
    def pixels(self) -> int:
        """Pixels of a window."""
        return self.geometry.window_pixels

    @property
    def slots(self) -> int:
        """Slots of a merged window: no more than channels, in fours."""
        return ceil_div(self.channels, 4) * 4

    @property
    def table_width(self) -> int:
        """Hyperplanes in the table, in fours."""
        return ceil_div(self.planes, 4) * 4

    @property
    def part_pixels(self) -> int:
        """Pixels of a part."""
        return ceil_div(self.pixels, self.parts)

    def tensor(self, name: str) -> tuple[str, tuple[int, ...], str]:
        """(name, shape, dtype) of a tensor. What the kernels are given:

        x: images, NHWC, float32.
        planes: (window pixels, table width) float32, see ``pack_planes``.
        norm2: (all C,) float32: |F_c|².
        settings: (3,) float32: hyperplanes in use, tolerance, flat tolerance.

        And what they hand on:

        sums: (entries, parts, 2 + table width, C) float32: for every channel sum, sum of squares and <P_c, v_l>.
        totals: (entries, 2 + table width, C) float32: the same over all parts, for the hyperplanes in use.
        state: (entries, 3, C) int32, see ``KEY``, ``SLOT`` and ``ROW``.
        order: (entries, C) int32: channels in the order members, flats, singles, zeros.
        starts: (entries, C // 2 + 3) int32: where each group's members start in ``order``; then where the flats do, and
            where they end.
        counts: (entries, 6) int32, see ``Counts``.
        merged: (entries, window pixels, slots) float32: the merged windows. Slots are the sums of groups, then the mask
            of pixels on the image if there are flat channels, then channels that are alone, then zeros up to a
            multiple of four.
        products: (entries, parts, 2, C) float32: <P_c, X_g> and <X_g, X_g>.
        coeff: (entries, C) float32: a_c of members, d_c of flats, else 1.
        residuals: (entries, parts, C) float32: (|P_c - a_c X_g| · |F_c|)² of members, else 0.
        bound: entries, float32: sum of |F_c| · |P_c - P̂_c|.
        """
        channels, parts = self.channels, self.parts
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "sums": ((parts, 2 + self.table_width, channels), FLOAT32.dtype),
            "totals": ((2 + self.table_width, channels), FLOAT32.dtype),
            "state": ((3, channels), "int32"),
            "order": ((channels,), "int32"),
            "starts": ((channels // 2 + 3,), "int32"),
            "counts": ((len(COUNTS),), "int32"),
            "merged": ((self.pixels, self.slots), FLOAT32.dtype),
            "products": ((parts, 2, channels), FLOAT32.dtype),
            "coeff": ((channels,), FLOAT32.dtype),
            "residuals": ((parts, channels), FLOAT32.dtype),
            "bound": ((), FLOAT32.dtype),
        }
        given: dict[str, tuple[int, ...]] = {
            "x": (self.batch, *self.geometry.input_size, self.geometry.in_channels),
            "planes": (self.pixels, self.table_width),
            "norm2": (self.geometry.in_channels,),
            "settings": (3,),
        }
        if name in given:
            return name, given[name], FLOAT32.dtype
        shape, dtype = shapes[name]
        return name, (self.patches, self.geometry.groups, *shape), dtype

    def tensors(self, *names: str) -> list[tuple[str, tuple[int, ...], str]]:
        """``tensor`` of each."""
        return [self.tensor(name) for name in names]

    def at(self, name: str, entry: Expr, *place: Expr) -> Expr:
        """Where an element of a tensor that is handed on lies, of window ``entry``."""
        index = entry
        for size, each in zip(self.tensor(name)[1][2:], place, strict=True):
            index = index * size + each
        return index

    def read_counts(self, counts: Expr, entry: Expr) -> Counts:
        """Emit what was counted in window ``entry``."""
        return Counts(*(bind(counts[self.at("counts", entry, index)]) for index in range(len(COUNTS))))


def group_layout(geometry: ConvGeometry, batch: int, planes: int, processors: int) -> GroupLayout:
    """The layout for a card with so many multiprocessors: enough parts to give each of them a few blocks."""
    one = GroupLayout(geometry, batch)
    wanted = ceil_div(_BLOCKS * processors, one.entries)
    parts = max(1, min(wanted, one.pixels // _LEAST_PIXELS, _MOST_PARTS))
    # As many as have pixels to do.
    return GroupLayout(geometry, batch, planes, ceil_div(one.pixels, ceil_div(one.pixels, parts)))
