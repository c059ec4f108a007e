"""What the steps of the convolution share: the kernel's tensors, its sizes, and what one task works on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import STREAMED_BYTES
from haste_compiler.codegen.dynamic import Batch, hint_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS, Counts
from haste_compiler.methods.haste.cpu.layout import group_layout, may_restore, reads_padding, row_floats
from haste_compiler.methods.haste.cpu.place import Place
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.tiling import HasteTiling


@dataclass(frozen=True)
class ConvolveTensors:
    """The convolving kernel's tensors, flat, by the names of its arguments.

    Attributes:
        order, coeff, starts, rows, counts: see ``GroupLayout``.
        filters: see ``pack_haste_filters``.
        tap_sums: see ``pack_tap_sums``.
        bias: see ``pack_bias``.
        y: the output, NHWC.
        residual: the same shape, added before the activation.
        windows: see ``GroupLayout``; None if no patch's are kept.
        x: the images, NHWC, where windows may have to be made again.
    """

    order: Expr
    coeff: Expr
    starts: Expr
    rows: Expr
    counts: Expr
    filters: Expr
    tap_sums: Expr
    bias: Expr
    y: Expr
    residual: Expr | None = None
    windows: Expr | None = None
    x: Expr | None = None


class Convolution:
    """One layer's convolution: what is the same for all tasks.

    Attributes:
        geometry, tiling, merge, skip, activation: what it computes, and how it is cut.
        keeps: whether the patches' windows were kept; if not, each task makes those of its patch again.
        tile: the register tile.
        element: of images and filters.
        channels, group_out, taps: input and output channels of a conv group, taps of a filter.
        row: floats of a channel's window.
        k_tiles, channel_tiles: tiles of a conv group's output channels, and how many of them a task computes.
        filter_elements: of one input channel's filters for a tile of output channels.
        tiles_down, tiles_across: register tiles of a patch.
        streamed: whether all filters are so large that they are prefetched.
        sharing: patches that read the same filters before any reads the next ones.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: HasteTiling,
        reduction: Reduction,
        activation: str,
        *,
        keeps: bool,
    ) -> None:
        self.geometry, self.batch, self.tiling, self.keeps = geometry, batch, tiling, keeps
        self.merge, self.skip, self.activation = reduction.merge, reduction.skip, activation
        self.tile, self.element = tiling.tile, tiling.tile.element
        self.channels, self.taps = geometry.in_channels // geometry.groups, geometry.taps
        self.group_out = geometry.out_channels // geometry.groups
        self.row = row_floats(geometry, tiling.lanes)
        self.k_tiles = math.ceil(self.group_out / self.tile.channels)
        # One task makes a patch's windows again, not one for every few output channels.
        self.channel_tiles = tiling.channel_tiles if keeps else self.k_tiles
        self.filter_elements = self.taps * self.tile.channels
        rows, columns = geometry.effective_patch
        self.tiles_down, self.tiles_across = -(-rows // self.tile.rows), -(-columns // self.tile.columns)
        filters = geometry.groups * self.k_tiles * self.channels * self.filter_elements
        self.streamed = filters * self.element.bytes >= STREAMED_BYTES
        together = hint_of(batch) * geometry.patch_grid[0] * geometry.patch_grid[1]
        self.sharing = together if self.channel_tiles == 1 else 1

    def arguments(self, residual: bool) -> list[tuple[str, tuple[Any, ...], str]]:
        """(name, shape, dtype) of ``ConvolveTensors``, in the kernel's order."""
        images = (self.batch, *self.geometry.input_size, self.geometry.in_channels)
        k_tiles, width, element = self.geometry.groups * self.k_tiles, self.tile.channels, self.element
        output = (self.batch, *self.geometry.output_size, self.geometry.out_channels)
        return [
            *([("x", images, self.element.dtype)] if may_restore(self.batch, self.tiling.kept) else []),
            *group_layout(self.geometry, self.batch, self.tiling.lanes, self.tiling.kept).tensors()[:-1],
            ("filters", (k_tiles * self.channels * self.filter_elements,), element.dtype),
            ("tap_sums", (k_tiles * self.channels * width,), element.accumulator),
            ("bias", (k_tiles * width,), element.accumulator),
            *([("residual", output, element.dtype)] if residual else []),
            ("y", output, element.dtype),
        ]

    def registers(self, count: int) -> list[emit.Register]:
        """So many vectors of sums."""
        return [emit.Register(self.tile.lanes, dtype=self.element.accumulator) for _ in range(count)]


class Task:
    """One patch of one conv group and some tiles of its output channels: emits where they are.

    Attributes:
        layer, tensors: what it belongs to.
        turn: its patch's number: patches take turns in prefetching.
        chunk, group: which output channels, of which conv group.
        place: where the patch lies.
        out_row, out_column, rows, columns: the patch's outputs.
        list, group_list: where its part of the lists by channel begins, and of those by group.
        counts: of its channels.
        on_border: whether its outputs read padding.
        merged: memory of the groups' filters, and behind them of one more for the carried means.
        start: the sums' first values, by vector.
        convolved: how many merged filters there are.
    """

    def __init__(self, layer: Convolution, tensors: ConvolveTensors, task: Expr, patches: Expr, chunks: int) -> None:
        geometry, channels = layer.geometry, layer.channels
        self.layer, self.tensors = layer, tensors
        self.turn = emit.bind(task % patches)
        self.chunk = emit.bind(task // patches % chunks)
        self.group = emit.bind(task // (patches * chunks))
        windows = tensors.windows if layer.keeps else None
        self.place = Place(geometry, layer.tiling.lanes, windows, self.turn, self.group)
        entry = self.place.entry
        (patch_h, patch_w), (out_h, out_w) = geometry.effective_patch, geometry.output_size
        self.out_row = emit.bind(self.place.patch_row * patch_h)
        self.out_column = emit.bind(self.place.patch_column * patch_w)
        self.rows = emit.bind(T.min(patch_h, out_h - self.out_row))
        self.columns = emit.bind(T.min(patch_w, out_w - self.out_column))
        self.list = emit.bind(entry * channels)
        self.group_list = emit.bind(entry * (channels // 2 + 1))
        self.counts = Counts(*(emit.bind(tensors.counts[entry * len(COUNTS) + i]) for i in range(len(COUNTS))))
        top, _, left, _ = geometry.padding
        y, x = self.out_row * geometry.stride[0] - top, self.out_column * geometry.stride[1] - left
        self.on_border = emit.bind(reads_padding(geometry, y, x, self.rows, self.columns))
        self.merged = T.alloc_buffer(((channels // 2 + 2) * layer.filter_elements,), layer.element.dtype)
        self.start = layer.registers(layer.tile.vectors)
        self.convolved = emit.Register(1, T.int32(0), "int32")

    @property
    def singles(self) -> Expr:
        """Where the channels that are alone begin in the list."""
        return self.list + self.counts.members

    @property
    def flats(self) -> Expr:
        """Where the flat channels begin in the list."""
        return self.list + self.counts.singles + self.counts.members

    def filter(self, packed: Expr, channel: Expr) -> Expr:
        """Where a channel's filters for tile ``packed`` of the output channels begin."""
        return (packed * self.layer.channels + channel) * self.layer.filter_elements

    def prefetch(self, packed: Expr, channel: Expr, turn: Expr, turns: int) -> None:
        """A part of a channel's filters for the next output channels; ``turns`` calls ask for all of them."""
        layer = self.layer
        if not layer.streamed:
            return
        of_line = emit.LINE_BYTES // layer.element.bytes
        lines = -(-layer.filter_elements // of_line)
        each = -(-lines // turns)
        following = T.min(packed + 1, layer.geometry.groups * layer.k_tiles - 1)
        start = emit.bind(self.filter(following, channel) + turn % -(-lines // each) * (each * of_line))
        emit.prefetch_elements(self.tensors.filters, start, each * of_line, layer.element)
