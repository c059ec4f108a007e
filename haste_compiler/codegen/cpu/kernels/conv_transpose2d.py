"""Transposed convolution by its phases: each a plain convolution that writes every so many pixels of the output.

All phases read the same window, which a task copies once where it reaches over the image's edge. A table says for each
phase where it begins to read, and how many taps it has; filters are packed phase by phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation, is_long, write_output
from haste_compiler.codegen.cpu.kernels.conv2d import (
    AHEAD_BYTES,
    STREAMED_BYTES,
    TileWriter,
    add_products,
    pack_bias,
    pack_filters,
    start_sums,
    unrolled,
)
from haste_compiler.codegen.cpu.kernels.window import copy_rows
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import ConvTiling, ConvWork, RegisterTile, cheapest_tiling
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.transposed import Phased, can_join
from haste_compiler.graph.transposed import TransposedGeometry

TABLE_COLUMNS = 5
"""Numbers of a phase in its table, see ``Phased.table``."""


def phased_work(phased: Phased, batch: int, element: Element = FLOAT32) -> ConvWork:
    """What tiling needs to know: of every phase the same, with the mean of their taps."""
    vertical, horizontal = phased.axes
    reading, groups = phased.reading, phased.geometry.groups
    _, _, left, right = reading.padding
    taps = phased.taps
    return ConvWork(
        images=batch,
        rows=vertical.count,
        columns=horizontal.count,
        channels=phased.channels // groups,
        groups=groups * len(taps),
        depth=max(1, math.ceil(sum(taps) / len(taps) * reading.in_channels / groups)),
        window_rows=(1, vertical.span),
        window_row_elements=(reading.input_size[1] + left + right) * reading.in_channels,
        copies=any(reading.padding),
        flat=False,
        element=element,
    )


def choose_phased(
    geometry: TransposedGeometry, batch: int, unit: VectorUnit, threads: int
) -> tuple[Phased, ConvTiling]:
    """Whether phases are joined, and the tiling, with the fewest modelled cycles."""
    separate = Phased(geometry, joined=False)
    cycles, tiling = cheapest_tiling(phased_work(separate, batch), unit, threads)
    if can_join(geometry):
        joined = Phased(geometry, joined=True)
        fewer, other = cheapest_tiling(phased_work(joined, batch), unit, threads)
        if fewer < cycles and (joined.axes[1].is_even or joined.channels <= other.tile.channels):
            return joined, other
    return separate, tiling


def pack_phased(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, phased: Phased, tiling: ConvTiling
) -> list[NDArray[Any]]:
    """(C, K/groups, kh, kw) and (K,) or None as the kernel takes them: what comes between x and the residual."""
    groups, tile = phased.geometry.groups, tiling.tile
    filters = np.concatenate([pack_filters(each, groups, tile) for each in phased.filters(weight)])
    return [phased.table().reshape(-1), filters, pack_bias(phased.bias(bias), phased.channels, groups, tile)]


def conv_transpose2d_kernel(
    name: str,
    phased: Phased,
    batch: Batch,
    tiling: ConvTiling,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, table, packed filters, packed bias[, residual NHWC], y NHWC)."""
    geometry, tile = phased.geometry, tiling.tile
    element = tile.element
    out_shape = (batch, *geometry.output_size, geometry.out_channels)
    k_tiles = _k_tiles(phased, tiling)
    depth = geometry.in_channels // geometry.groups * sum(phased.taps)
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        ("x", (batch, *geometry.input_size, geometry.in_channels), element.dtype),
        ("table", (len(phased.taps) * TABLE_COLUMNS,), "int32"),
        ("filters", (k_tiles * depth * tile.channels,), element.dtype),
        ("bias", (k_tiles * tile.channels,), element.accumulator),
        *([("residual", out_shape, element.dtype)] if residual else []),
        ("y", out_shape, element.dtype),
    ]

    def body(*buffers: Expr) -> None:
        _Phases(phased, batch, tiling, activation, list(buffers)).write()

    return emit.kernel(name, arguments, body)


def _k_tiles(phased: Phased, tiling: ConvTiling) -> int:
    """Register tiles that cover the channels of one phase."""
    groups = phased.geometry.groups
    return groups * math.ceil(phased.channels // groups / tiling.tile.channels)


class JoinedWriter(TileWriter):
    """Writes joined phases where the first or the last of them lie off the output: one tile has all their channels.

    Args:
        phased: the convolution, joined.
        tile: the register tile.
        activation: see ``apply_activation``.
        y: what is written, NHWC.
        residual: what is added before, of the same shape.
    """

    def __init__(self, phased: Phased, tile: RegisterTile, activation: str, y: Expr, residual: Expr | None) -> None:
        step = len(phased.axes[0].phases), 1
        super().__init__(phased.reading, tile, activation, y, residual, phased.geometry.output_size, step)
        self.axis, self.pixel_channels = phased.axes[1], phased.geometry.out_channels

    def store(self, sums: list[list[emit.Register]], k_tile: Expr, image: Expr, row: Expr, column: Expr) -> None:
        """See ``TileWriter``; ``column`` counts joined pixels."""
        for p, pixel in enumerate(sums):
            py, px = divmod(p, self.tile.columns)

            def write(v: int, lane: int, width: int, at: Expr, pixel: list[emit.Register] = pixel) -> None:
                value = emit.load(pixel[v].buffer, lane, width)
                write_output(self.y, at, value, width, self.residual, self.activation)

            self._pixel(image, row + py * self.step[0], column + px, write)
        if is_long(self.activation):

            def finish(v: int, lane: int, width: int, at: Expr) -> None:
                emit.store(self.y, at, apply_activation(emit.load(self.y, at, width), self.activation, width), width)

            with T.serial(0, self.tile.rows) as py, T.serial(0, self.tile.columns) as px:
                self._pixel(image, emit.bind(row + py * self.step[0]), emit.bind(column + px), finish)

    def _pixel(self, image: Expr, row: Expr, column: Expr, piece: Callable[[int, int, int, Expr], None]) -> None:
        """Call ``piece`` with the pieces of a joined pixel that lie in the output: vector, lane, lanes, place in y."""
        count, channels = self.axis.count, self.out_channels
        off = self.axis.before * self.pixel_channels
        end = (self.axis.output_size + self.axis.before) * self.pixel_channels - (count - 1) * channels
        start = (image * self.out_h + row) * self.out_w * self.pixel_channels + column * channels - off

        def write(first: int, last: int) -> None:
            lanes = self.tile.lanes
            for v in range(first // lanes, -(-last // lanes)):
                begin, stop = max(first, v * lanes), min(last, (v + 1) * lanes)
                for offset, width in emit.chunks(stop - begin, lanes):
                    piece(v, begin + offset - v * lanes, width, start + begin + offset)

        with T.If(row < self.out_h), T.Then():
            if count == 1:
                write(off, end)
                return
            with T.If(column == 0):
                with T.Then():
                    write(off, channels)
                with T.Else(), T.If(column == count - 1):
                    with T.Then():
                        write(0, end)
                    with T.Else():
                        write(0, channels)


class _Phases:
    """Emits one kernel; the methods go from the tasks inwards to the register tile."""

    def __init__(self, phased: Phased, batch: Batch, tiling: ConvTiling, activation: str, buffers: list[Expr]) -> None:
        self.phased, self.tiling, self.tile = phased, tiling, tiling.tile
        self.reading, self.images = phased.reading, images_of(batch)
        self.x, self.table, self.filters, self.bias = buffers[:4]
        residual = buffers[4] if len(buffers) == 6 else None
        vertical, horizontal = phased.axes
        if phased.joined and not horizontal.is_even:
            self.writer: TileWriter = JoinedWriter(phased, self.tile, activation, buffers[-1], residual)
        else:
            height, width = phased.geometry.output_size
            self.writer = TileWriter(
                self.reading,
                self.tile,
                activation,
                buffers[-1],
                residual,
                (height, width // len(phased.across[0])),
                (len(vertical.phases), len(phased.across)),
                overhangs=not (vertical.is_even and horizontal.is_even),
            )
        self.rows, self.columns = vertical.count, horizontal.count
        self.tiles_across = math.ceil(self.columns / self.tile.columns)
        self.channels = self.reading.in_channels
        self.group_channels = self.channels // self.reading.groups
        self.row_elements = (self.reading.input_size[1] + sum(self.reading.padding[2:])) * self.channels
        self.k_tiles = _k_tiles(phased, tiling)
        self.all_tiles = self.k_tiles * len(phased.taps)
        element = self.tile.element
        filter_elements = self.k_tiles * sum(phased.taps) * self.group_channels * self.tile.channels
        self.streamed = filter_elements * element.bytes >= STREAMED_BYTES
        # Register tiles that a task computes with the same filters, and tasks that read the same ones.
        self.tiles = tiling.block // self.tile.rows * self.tiles_across
        self.passes = math.ceil(self.rows / tiling.block) * hint_of(batch)

    def write(self) -> None:
        """All tasks, in parallel."""
        blocks = math.ceil(self.rows / self.tiling.block)
        chunks = math.ceil(self.all_tiles / self.tiling.channel_tiles)
        places = self.images * blocks
        with T.parallel(0, places * chunks) as task:
            if self.tiling.channels_first:
                chunk, place = emit.bind(task // places), emit.bind(task % places)
            else:
                place, chunk = emit.bind(task // chunks), emit.bind(task % chunks)
            image, first = emit.bind(place // blocks), emit.bind(place % blocks * self.tiling.block)
            count = emit.bind(emit.minimum(self.tiling.block, self.rows - first))
            window = self._window(image, first)
            tile_first = emit.bind(chunk * self.tiling.channel_tiles)
            with T.serial(0, emit.minimum(self.tiling.channel_tiles, self.all_tiles - tile_first)) as step:
                self._phase(window, emit.bind(tile_first + step), image, first, count)

    def _window(self, image: Expr, first: Expr) -> tuple[Expr, Expr]:
        """The buffer that the task reads, and where the row begins in it that its first output row reads first."""
        vertical = self.phased.axes[0]
        rows = self.tiling.block + vertical.span
        start = first + (vertical.first + vertical.padding[0])
        return copy_rows(self.x, self.reading, image, start, rows, self.tile.lanes)

    def _phase(self, window: tuple[Expr, Expr], number: Expr, image: Expr, first: Expr, count: Expr) -> None:
        """One tile of output channels of one phase: ``count`` of its rows, from the ``first`` on."""
        tile = self.tile
        phase, k_tile = emit.bind(number // self.k_tiles), emit.bind(number % self.k_tiles)
        step_down, step_across = len(self.phased.axes[0].phases), len(self.phased.across)
        down, across = emit.bind(phase // step_across), emit.bind(phase % step_across)
        line = [T.bind(self.table[phase * TABLE_COLUMNS + i]) for i in range(TABLE_COLUMNS)]
        length = emit.bind(line[2] * line[3] * (self.group_channels * tile.channels))
        filters = emit.bind(line[4] * (self.group_channels * tile.channels * self.k_tiles) + k_tile * length)
        group = 0 if self.reading.groups == 1 else k_tile // self.writer.group_tiles
        corner = window[1] + line[0] * self.row_elements + line[1] * self.channels + group * self.group_channels
        corner = emit.bind(corner)
        with T.serial(0, count // tile.rows) as row_step:
            row = emit.bind(row_step * tile.rows)
            with T.serial(0, self.tiles_across) as column_step:
                column = emit.bind(emit.minimum(column_step * tile.columns, self.columns - tile.columns))
                index = emit.bind(row_step * self.tiles_across + column_step)
                sums = start_sums(tile, self.bias, k_tile)
                read = emit.bind(corner + row * self.row_elements + column * self.channels)
                self._sum(sums, window[0], read, (line[2], line[3]), filters, (filters + length, index))
                to_row, to_column = (first + row) * step_down + down, column * step_across + across
                self.writer.store(sums, k_tile, image, emit.bind(to_row), emit.bind(to_column))

    def _sum(
        self,
        sums: list[list[emit.Register]],
        source: Expr,
        read: Expr,
        taps: tuple[Expr, Expr],
        filters: Expr,
        following: tuple[Expr, Expr],
    ) -> None:
        """Add the products of a register tile's pixels with their taps; ``following`` is where the next filters begin,
        and the number of the task's tile."""
        tile, spread = self.tile, [axis.spread for axis in self.phased.axes]
        offsets = [py * self.row_elements + px * self.channels for py in range(tile.rows) for px in range(tile.columns)]
        length = self.group_channels
        fused = spread[1] == 1 and self.reading.groups == 1
        unroll = unrolled(tile, length, (2, 3))
        steps = length // unroll
        runs = 1 if fused else taps[1]
        run_steps = emit.bind(taps[1] * steps) if fused else steps
        ahead, stride = self._following(filters, following, run_steps * runs * taps[0], unroll)
        with T.serial(0, taps[0]) as i, T.serial(0, runs) as j:
            from_ = emit.bind(read + i * (spread[0] * self.row_elements) + j * (spread[1] * self.channels))
            done = emit.bind((i * runs + j) * run_steps)
            with T.serial(0, run_steps) as step:
                if self.streamed:
                    emit.prefetch_elements(self.filters, ahead + (done + step) * stride, stride, tile.element)
                for u in range(unroll):
                    at = filters + ((done + step) * unroll + u) * tile.channels
                    add_products(sums, tile, (self.filters, at), source, from_ + step * unroll + u, offsets)

    def _following(self, filters: Expr, following: tuple[Expr, Expr], steps: Expr, unroll: int) -> tuple[Expr, int]:
        """Where the filters begin that a register tile asks for while it sums, and how many elements at each step."""
        if self.tiles == self.passes == 1:
            return emit.bind(filters + AHEAD_BYTES // self.tile.element.bytes), unroll * self.tile.channels
        # The task's register tiles share the next filters among them.
        stride = -(-unroll * self.tile.channels // self.tiles)
        return emit.bind(following[0] + following[1] * (steps * stride)), stride
