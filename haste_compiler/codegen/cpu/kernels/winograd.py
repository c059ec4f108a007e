"""3×3 convolution by Winograd's minimal filtering (``codegen.winograd``) on a CPU.

Filters are transformed once, when they are packed. A task transforms the inputs of some rows of tiles, then for a few
output channels multiplies one matrix for each of the (m + 2)² positions and transforms the sums back, with bias,
residual and activation, while they are in the second-level cache. Tiles at the right and lower end are moved back to
fit, like register tiles.

The transforms add and subtract neighbours, so one infinite or NaN pixel would spoil its whole tile. Outputs are summed
on the way; where that sum is not finite the plain convolution is computed instead, and says what PyTorch says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import is_long, write_output
from haste_compiler.codegen.cpu.kernels.conv2d import (
    STREAMED_BYTES,
    activate,
    conv2d_arguments,
    pack_filters,
    tile_pieces,
    unrolled,
    write_conv2d,
    write_valid,
)
from haste_compiler.codegen.cpu.kernels.window import copy_rows
from haste_compiler.codegen.cpu.tiling import RegisterTile, WinogradTiling
from haste_compiler.codegen.cpu.winograd_tiling import tile_count
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.winograd import combine
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT, OUTPUT, transform_filters

_MOST_ASKED_BYTES = 1 << 16
"""Of outputs that are asked for before they are written: more would drive each other out of the caches again."""


def pack_winograd_filters(weight: NDArray[np.float32], size: int, tile: RegisterTile) -> NDArray[np.float32]:
    """(K, C, 3, 3) to G F Gᵀ as [K tiles][(size + 2)²][C][tile channels], zero-padded, flat."""
    return pack_filters(transform_filters(weight, size), 1, tile)


def winograd_arguments(
    geometry: ConvGeometry, batch: Batch, tiling: WinogradTiling, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: a plain convolution's, and the transformed filters after x."""
    x, filters, (bias, shape, bias_dtype), *rest = conv2d_arguments(
        geometry, batch, tiling.direct.tile, residual=residual
    )
    k_tiles = tile_count(geometry, tiling.tile)
    size = k_tiles * (tiling.size + 2) ** 2 * geometry.in_channels * tiling.tile.channels
    length = max(*shape, k_tiles * tiling.tile.channels)
    return [x, ("transformed", (size,), tiling.tile.element.dtype), filters, (bias, (length,), bias_dtype), *rest]


def write_winograd(
    geometry: ConvGeometry, batch: Batch, tiling: WinogradTiling, activation: str, buffers: list[Expr]
) -> None:
    """Emit the convolution of ``buffers``, those of ``winograd_arguments``, into the kernel that is being built."""
    x, transformed, filters, *rest = buffers
    writer = WinogradWriter(geometry, batch, tiling, activation, [x, transformed, *rest])
    finite = T.alloc_buffer((writer.tasks,), "int32")
    writer.write(finite)
    good = emit.Register(1, T.int32(0), "int32")
    with T.serial(0, writer.tasks) as task:
        good.add(finite[task])
    with T.If(good.get() < writer.tasks), T.Then():
        write_conv2d(geometry, batch, tiling.direct, activation, [x, filters, *rest])


class WinogradWriter:
    """Emits the transforms and the products; the methods go from the tasks inwards.

    Args:
        geometry: the convolution.
        batch: images.
        tiling: how it is cut.
        activation: see ``apply_activation``.
        buffers: x, transformed filters, bias, maybe a residual, and y.
        apart: y are so many tiles, (tiles, m², K), and not an image; None: it is.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: WinogradTiling,
        activation: str,
        buffers: list[Expr],
        apart: int | None = None,
    ) -> None:
        self.geometry, self.tiling, self.activation = geometry, tiling, activation
        self.size, self.tile, self.element = tiling.size, tiling.tile, tiling.tile.element
        self.x, self.filters, self.bias, self.y = buffers[0], buffers[1], buffers[2], buffers[-1]
        self.residual = buffers[3] if len(buffers) == 5 else None
        self.channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.out_h, self.out_w = geometry.output_size
        self.row_pixels = self.out_w if apart is None else self.size
        self.rows, self.columns = tiling.grid(geometry)
        self.positions = (self.size + 2) ** 2
        self.tiles = tiling.block * self.columns if apart is None else apart
        self.k_tiles = tile_count(geometry, self.tile)
        # The last block of a number of images that wasn't known may have fewer rows.
        self.all_rows = emit.bind(images_of(batch) * self.rows)
        self.blocks = emit.ceil_div(self.all_rows, tiling.block)
        self.chunks = math.ceil(self.k_tiles / tiling.channel_tiles)
        self.tasks = self.blocks * self.chunks
        # One cache line more between positions: strides of a power of two would all fall into one cache set.
        self.input_stride = self.tiles * self.channels + emit.LINE_BYTES // self.element.bytes
        self.sum_stride = self.tiles * self.tile.channels + emit.LINE_BYTES // self.element.accumulator_bytes
        self.slice = self.channels * self.tile.channels
        self.asked_bytes = self.tiles * self.size**2 * self.tile.channels * self.element.bytes
        self.streamed = self.k_tiles * self.positions * self.slice * self.element.bytes >= STREAMED_BYTES

    def write(self, finite: Expr) -> None:
        """All tasks, in parallel; each notes in ``finite`` whether its sums are."""
        with T.parallel(0, self.tasks) as task:
            chunk, block = emit.bind(task // self.blocks), emit.bind(task % self.blocks)
            first = emit.bind(block * self.tiling.block)
            inputs, sums = self.scratch()
            total = emit.Register(self.tile.lanes, 0.0, self.element.accumulator)
            whole = isinstance(self.all_rows, int) or self.rows % self.tiling.block == 0
            rows = self.tiling.block if whole else emit.bind(emit.minimum(self.tiling.block, self.all_rows - first))
            with T.serial(0, rows) as row:
                self._transform_inputs(first, row, inputs)
            k_first = emit.bind(chunk * self.tiling.channel_tiles)
            with T.serial(0, emit.minimum(self.tiling.channel_tiles, self.k_tiles - k_first)) as k_step:
                k_tile = emit.bind(k_first + k_step)
                with T.serial(0, self.positions) as position:
                    self.multiply(k_tile, position, self.tiles, inputs, sums, self._asking(k_tile, position, first))
                with T.serial(0, rows) as row, T.serial(0, self.columns) as column:
                    self._transform_outputs(k_tile, first, row, column, sums, total)
            in_range = emit.bind(tirx.abs(total.total()) <= T.float32(emit.LARGEST))
            emit.store(finite, task, tirx.Select(in_range, T.int32(1), T.int32(0)))

    def scratch(self) -> tuple[Expr, Expr]:
        """Buffers for a task's transformed inputs, and for the sums of a tile of output channels."""
        inputs = T.alloc_buffer((self.positions * self.input_stride,), self.element.dtype)
        return inputs, T.alloc_buffer((self.positions * self.sum_stride,), self.element.accumulator)

    def _place(self, first: Expr, row: Expr) -> tuple[Expr, Expr]:
        """The image, and the first output row of a row of tiles."""
        place = emit.bind(first + row)
        return emit.bind(place // self.rows), emit.bind(
            emit.minimum(place % self.rows * self.size, self.out_h - self.size)
        )

    def _column(self, column: Expr) -> Expr:
        return emit.bind(emit.minimum(column * self.size, self.out_w - self.size))

    def _transform_inputs(self, first: Expr, row: Expr, inputs: Expr) -> None:
        """Bᵀ X B of one row of tiles. Only rows that reach into the padding above or below are copied with it."""
        image, out_row = self._place(first, row)
        top, _, left, right = self.geometry.padding
        height, width = self.geometry.input_size
        read = emit.bind(out_row - top)
        start = emit.bind(((image * height + read) * width - left) * self.channels)
        image_columns, all_columns = range(left, left + width), range(left + width + right)
        if not any(self.geometry.padding):
            self._transform_row(self.x, start, width, image_columns, row, inputs)
            return
        with T.If(tirx.all(read >= 0, read + self.size + 2 <= height)):
            with T.Then():
                self._transform_row(self.x, start, width, image_columns, row, inputs)
            with T.Else():
                window, base = copy_rows(self.x, self.geometry, image, out_row, self.size + 2, self.tile.lanes)
                self._transform_row(window, base, len(all_columns), all_columns, row, inputs)

    def _transform_row(self, source: Expr, start: Expr, width: int, held: range, row: Expr, inputs: Expr) -> None:
        """Transform the tiles of rows in ``source``, ``width`` long, which are columns ``held`` of the padded image."""

        def tile(known: int, number: Expr, column: Expr) -> None:
            corner = emit.bind(start + column * self.channels)
            target = emit.bind((row * self.columns + number) * self.channels)
            there = [known + j in held for j in range(self.size + 2)]
            self.transform_tile(source, corner, width, there, inputs, target)

        emit.each_tile(self.out_w, self.size, lambda at: at in held and at + self.size + 1 in held, tile)

    def transform_tile(
        self, source: Expr, corner: Expr, width: int, there: Sequence[bool], inputs: Expr, target: Expr
    ) -> None:
        """Transform the tile that begins at ``corner``; columns that aren't ``there`` are zero."""
        side, lanes, matrix = self.size + 2, self.tile.lanes, INPUT[self.size]

        def transform(channel: Expr, n: int) -> None:
            read = emit.bind(corner + channel)

            def value(i: int, j: int) -> Expr:
                if not there[j]:
                    return emit.splat(0.0, n, self.tiling.direct.tile.element.dtype)
                return T.bind(emit.load(source, read + (i * width + j) * self.channels, n))

            columns = [combine(matrix, [value(i, j) for i in range(side)]) for j in range(side)]
            written = emit.bind(target + channel)
            for i in range(side):
                for j, mixed in enumerate(combine(matrix, [values[i] for values in columns])):
                    emit.store(inputs, written + (i * side + j) * self.input_stride, mixed, n)

        emit.sweep(self.channels, lanes, transform)

    def multiply(
        self,
        k_tile: Expr,
        position: Expr,
        tiles: Expr,
        inputs: Expr,
        sums: Expr,
        ask: Callable[[Expr], None] | None = None,
    ) -> None:
        """The sums over channels of one position, for the first ``tiles`` of the task.

        Where those are fewer than a register tile has, some are summed that nobody wrote. ``ask(column)`` asks for what
        will be written of the tiles from a column on.
        """
        tile, lanes, accumulator = self.tile, self.tile.lanes, self.element.accumulator
        unroll = unrolled(tile, self.channels, (4, 2, 3))
        steps, across = self.channels // unroll, math.ceil(self.tiles / tile.columns)
        most = emit.bind(emit.maximum(0, tiles - tile.columns))
        packed = emit.bind((k_tile * self.positions + position) * self.slice)
        # The register tiles share the next position's filters among them.
        stride = -(-self.slice // (across * steps))
        with T.serial(0, emit.ceil_div(tiles, tile.columns)) as index:
            column = emit.bind(emit.minimum(index * tile.columns, most))
            registers = [
                [emit.Register(lanes, 0.0, accumulator) for _ in range(tile.vectors)] for _ in range(tile.columns)
            ]
            if ask is not None:
                ask(column)
            read = emit.bind(position * self.input_stride + column * self.channels)
            following = emit.bind(packed + self.slice + index * (steps * stride))
            with T.serial(0, steps) as step:
                if self.streamed:
                    emit.prefetch_elements(self.filters, following + step * stride, stride, self.element)
                for u in range(unroll):
                    c = step * unroll + u
                    at = packed + c * tile.channels
                    w = [T.bind(emit.load(self.filters, at + v * lanes, lanes)) for v in range(tile.vectors)]
                    for p, pixel in enumerate(registers):
                        value = T.bind(emit.splat(inputs[read + c + p * self.channels], lanes))
                        for v in range(tile.vectors):
                            pixel[v].add(value * w[v])
            written = emit.bind(position * self.sum_stride + column * tile.channels)
            for p, pixel in enumerate(registers):
                for v, register in enumerate(pixel):
                    emit.store(sums, written + p * tile.channels + v * lanes, register.get(), lanes)

    def _asking(self, k_tile: Expr, position: Expr, first: Expr) -> Callable[[Expr], None] | None:
        """What asks for outputs of a task that begins at a row; None where there are too many."""
        if self.asked_bytes > _MOST_ASKED_BYTES:
            return None
        return lambda column: self._ask_for_outputs(k_tile, position, first, column)

    def _ask_for_outputs(self, k_tile: Expr, position: Expr, first: Expr, column: Expr) -> None:
        """Ask for the lines that one output of some tiles will be written to: the first positions for one each."""
        with T.If(position < self.size**2), T.Then(), T.serial(0, self.tile.columns) as p:
            number = emit.bind(column + p)
            image, out_row = self._place(first, number // self.columns)
            row, left = out_row + position // self.size, self._column(number % self.columns) + position % self.size
            pixel = emit.bind((image * self.out_h + row) * self.out_w + left)
            at = emit.bind(pixel * self.out_channels + k_tile * self.tile.channels)
            for line in range(0, self.tile.channels, emit.LINE_BYTES // self.element.bytes):
                emit.prefetch(self.y, at + line, to_write=True)

    def _transform_outputs(
        self, k_tile: Expr, first: Expr, row: Expr, column: Expr, sums: Expr, total: emit.Register
    ) -> None:
        """Aᵀ M A of one tile, and the epilogue."""
        image, out_row = self._place(first, row)
        pixel = emit.bind((image * self.out_h + out_row) * self.out_w + self._column(column))
        at = emit.bind(pixel * self.out_channels + k_tile * self.tile.channels)
        self.store_tile(k_tile, emit.bind((row * self.columns + column) * self.tile.channels), at, sums, total)

    def store_tile(self, k_tile: Expr, read: Expr, at: Expr, sums: Expr, total: emit.Register) -> None:
        """The outputs of one tile, whose sums begin at ``read``, written from ``at`` on, and added to ``total``."""
        rest = self.out_channels - (self.k_tiles - 1) * self.tile.channels
        write_valid(
            k_tile,
            self.k_tiles,
            (self.tile.channels, rest),
            lambda valid: self._store_channels(k_tile, read, at, sums, total, valid),
        )

    def _store_channels(self, k_tile: Expr, read: Expr, at: Expr, sums: Expr, total: emit.Register, valid: int) -> None:
        side, lanes, matrix = self.size + 2, self.tile.lanes, OUTPUT[self.size]
        pieces = tile_pieces(self.tile, valid)
        for v, offset, n in pieces:
            start = emit.bind(read + v * lanes + offset)
            columns = [
                combine(
                    matrix,
                    [T.bind(emit.load(sums, start + (i * side + j) * self.sum_stride, n)) for i in range(side)],
                )
                for j in range(side)
            ]
            bias = T.bind(emit.load(self.bias, k_tile * self.tile.channels + v * lanes + offset, n))
            for i in range(self.size):
                for j, value in enumerate(combine(matrix, [values[i] for values in columns])):
                    value = T.bind(value + bias)
                    emit.store(total.buffer, 0, emit.load(total.buffer, 0, n) + value, n)
                    index = at + (i * self.row_pixels + j) * self.out_channels + v * lanes + offset
                    write_output(self.y, index, value, n, self.residual, self.activation)
        if is_long(self.activation):
            with T.serial(0, self.size) as i, T.serial(0, self.size) as j:
                pixel = emit.bind(at + (i * self.row_pixels + j) * self.out_channels)
                activate(self.y, pixel, pieces, self.tile, self.activation)
