"""A 3×3 convolution by Winograd's minimal filtering (``codegen.winograd``), whatever its products are made of.

A task transforms the inputs of some tiles and rounds them. Then for a few output channels it multiplies one matrix for
each of the (m + 2)² positions, and transforms the sums back, with bias, residual and activation, while they are in the
second-level cache. Tiles overhang the output plane: what a tile holds depends on its own window only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import is_long, write_output
from haste_compiler.codegen.cpu.kernels.conv2d import STREAMED_BYTES, activate, tile_pieces, write_valid
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.winograd import MultiplyAdd, combine
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT, OUTPUT
from haste_compiler.methods.quantized.cpu.filters import FilterLayout, filter_layout
from haste_compiler.methods.quantized.cpu.plain import Operands, Rectangle, write_plain
from haste_compiler.methods.quantized.cpu.products import Place, Sums, add_products, registers, start_sums
from haste_compiler.methods.quantized.cpu.unit import ProductUnit
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling

_LINE = emit.LINE_BYTES // 4
"""Elements of 32 bits in a cache line."""


def fused(n: int) -> MultiplyAdd:
    """A multiply-add of ``n`` lanes that is one wherever it stands, so that results don't depend on the code around it.

    On a target without such instructions it is two wherever it stands.
    """
    kind, name = ("float32", "f32") if n == 1 else (f"float32x{n}", f"v{n}f32")

    def multiply_add(value: Expr, weight: Expr, total: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin(kind, f"llvm.fmuladd.{name}", value, emit.splat(weight, n), total)

    return multiply_add


def padded_channels(geometry: ConvGeometry, unit: ProductUnit) -> int:
    """Channels of the groups that cover all."""
    return math.ceil(geometry.in_channels / unit.GROUP) * unit.GROUP


def pack_transformed(filters: NDArray[Any], layout: FilterLayout, order: NDArray[np.int64]) -> NDArray[Any]:
    """Transformed filters (K, C, m + 2, m + 2) as [K tiles][positions][groups][tile channels][group], flat.

    See ``FilterLayout`` for units that cut groups in parts.

    Args:
        filters: see above.
        layout: of the plain filters.
        order: the channel that each value in memory is of; past the last one filters are zero.
    """
    padded = np.pad(filters, ((0, 0), (0, len(order) - filters.shape[1]), (0, 0), (0, 0)))[:, order]
    positions = filters.shape[2] * filters.shape[3]
    parts = (layout.channels // layout.unit.lanes, layout.unit.lanes, -1, layout.unit.DEPTH, layout.part)
    tiles = layout.split(padded).reshape(layout.tiles, *parts, positions)
    return np.ascontiguousarray(tiles.transpose(0, 6, 3, 1, 4, 2, 5)).reshape(-1)


@dataclass(frozen=True)
class TileScratch:
    """Memory of a task. What is found of each of its tiles lies together.

    Attributes:
        mixed: [positions][C]: the tile's window on its way through the transform, float32.
        values: [tiles][positions][C]: rounded, of the unit's type.
        finite: [tiles]: whether all of its values are.
        places: [tiles]: where its outputs begin in y.
        sums: [tiles][positions][tile channels]: of products, float32.
        half: [m][m + 2][lanes]: Aᵀ times the sums of a vector of output channels.
    """

    mixed: Expr
    values: Expr
    finite: Expr
    places: Expr
    sums: Expr
    half: Expr


class TransformedTiles(ABC):
    """Emits the transforms and the products; the methods go from the tasks inwards.

    Args:
        geometry: the convolution's.
        batch: images.
        tiling: how the kernel is cut.
        unit: what multiplies.
        activation: see ``apply_activation``.
        buffers: by name: x, transformed, filters, scale where filters have one, bias, y, and residual where there is.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: WinogradTiling,
        unit: ProductUnit,
        activation: str,
        buffers: dict[str, Expr],
    ) -> None:
        self.geometry, self.tiling, self.activation = geometry, tiling, activation
        self.products, self.buffers, self.x, self.y = unit, buffers, buffers["x"], buffers["y"]
        self.size, self.side, self.tile, self.lanes = tiling.size, tiling.side, tiling.tile, unit.lanes
        self.channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.out_h, self.out_w = geometry.output_size
        self.rows, self.columns = tiling.grid(geometry)
        self.layout = filter_layout(geometry, self.tile.channels, unit)
        self.all_tiles = emit.bind(images_of(batch) * (self.rows * self.columns))
        self.blocks = emit.ceil_div(self.all_tiles, tiling.tiles)
        self.chunks = math.ceil(self.layout.tiles / tiling.channel_tiles)
        self.padded = padded_channels(geometry, unit)
        # One cache line more between tiles: strides of a power of two would all fall into one cache set.
        self.value_stride = tiling.positions * self.padded + emit.LINE_BYTES // np.dtype(unit.DTYPE).itemsize
        self.sum_stride = tiling.positions * self.tile.channels + _LINE
        self.mixed_stride = self.channels + _LINE
        self.slice = self.padded * self.tile.channels
        filter_bytes = self.layout.tiles * tiling.positions * self.slice * self.tile.element.bytes
        self.streamed = filter_bytes >= STREAMED_BYTES

    def write(self) -> None:
        """All tasks, in parallel."""
        tiles = self.tiling.tiles
        with T.parallel(0, self.blocks * self.chunks) as task:
            chunk, block = emit.bind(task // self.blocks), emit.bind(task % self.blocks)
            first = emit.bind(block * tiles)
            whole = isinstance(self.all_tiles, int) and self.all_tiles % tiles == 0
            count = tiles if whole else emit.bind(emit.minimum(tiles, self.all_tiles - first))
            scratch = self.allocate()
            with T.serial(0, count) as t:
                outputs = self._outputs(first + t)
                pixel = (outputs.image * self.out_h + outputs.row) * self.out_w + outputs.column
                emit.store(scratch.places, t, pixel * self.out_channels)
                self._read_tile(outputs, scratch.mixed)
                self.round_tile(t, scratch)
            k_first = emit.bind(chunk * self.tiling.channel_tiles)
            with T.serial(0, emit.minimum(self.tiling.channel_tiles, self.layout.tiles - k_first)) as k_step:
                k_tile = emit.bind(k_first + k_step)
                with T.serial(0, self.tiling.positions) as position:
                    self._multiply(k_tile, position, count, scratch)
                with T.serial(0, count) as t:
                    outputs = self._outputs(first + t)
                    with T.If(scratch.finite[t] != 0):
                        with T.Then():
                            self._transform_outputs(k_tile, t, outputs, scratch)
                        with T.Else():
                            self._write_plain(k_tile, outputs)

    @abstractmethod
    def allocate(self) -> Any:
        """A task's memory, a ``TileScratch`` or more."""

    def common(self) -> dict[str, Expr]:
        """The buffers of a ``TileScratch``."""
        tiles, positions = self.tiling.tiles, self.tiling.positions
        return {
            "mixed": T.alloc_buffer((positions * self.mixed_stride,), "float32"),
            "values": T.alloc_buffer((tiles * self.value_stride,), self.products.DTYPE),
            "finite": T.alloc_buffer((tiles,), "int32"),
            "places": T.alloc_buffer((tiles,), "int32"),
            "sums": T.alloc_buffer((tiles * self.sum_stride,), "float32"),
            "half": T.alloc_buffer((self.size * self.side * self.lanes,), "float32"),
        }

    @abstractmethod
    def round_tile(self, t: Expr, scratch: Any) -> None:
        """From Bᵀ X in ``scratch.mixed`` to Bᵀ X B, rounded, of the task's tile ``t``, and whether it is finite."""

    def starts(self, channel: Expr) -> Place | None:
        """What sums start with, of one position's output channels from ``channel`` on; None: zero."""
        return None

    @abstractmethod
    def store_sums(self, totals: Sums, channel: Expr, column: Expr, position: Expr, scratch: Any) -> None:
        """Write the sums of one position, of a tile of output channels from ``channel`` on.

        Args:
            totals: in registers.
            channel: counted over all positions.
            column: the first tile of the task that they are of.
            position: of the sums.
            scratch: the task's.
        """

    def _outputs(self, number: Expr) -> Rectangle:
        """The outputs of a tile."""
        number = emit.bind(number)
        row, column = emit.bind(number // self.columns), number % self.columns
        return Rectangle(
            emit.bind(row // self.rows),
            emit.bind(row % self.rows * self.size),
            emit.bind(column * self.size),
            self.size,
            self.size,
        )

    def _read_tile(self, outputs: Rectangle, mixed: Expr) -> None:
        """Bᵀ X of a tile's window, into ``mixed`` [row][column][channels]."""
        (top, _, left, _), (height, width) = self.geometry.padding, self.geometry.input_size
        first_row, first_column = emit.bind(outputs.row - top), emit.bind(outputs.column - left)
        inside = emit.bind(tirx.all(first_row >= 0, first_row + self.side <= height))
        with T.serial(0, self.side) as j:
            column = emit.bind(first_column + j)
            start = emit.bind(((outputs.image * height + first_row) * width + column) * self.channels)
            target = emit.bind(j * self.mixed_stride)

            def mix(value: Callable[[int, Expr, int], Expr], target: Expr = target) -> None:
                def body(channel: Expr, n: int) -> None:
                    rows = [T.bind(value(i, channel, n)) for i in range(self.side)]
                    for i, result in enumerate(combine(INPUT[self.size], rows, fused(n))):
                        emit.store(mixed, target + i * self.side * self.mixed_stride + channel, result, n)

                emit.sweep(self.channels, self.lanes, body)

            def pixel(i: int, channel: Expr, n: int, start: Expr = start) -> Expr:
                return emit.load(self.x, start + i * width * self.channels + channel, n)

            def padded(i: int, channel: Expr, n: int) -> Expr:
                there = tirx.all(first_row + i >= 0, first_row + i < height)
                return tirx.if_then_else(there, pixel(i, channel, n), emit.splat(0.0, n))

            with T.If(tirx.all(column >= 0, column < width)):
                with T.Then(), T.If(inside):
                    with T.Then():
                        mix(pixel)
                    with T.Else():
                        mix(padded)
                with T.Else(), T.serial(0, self.side) as i:
                    self._zero(mixed, emit.bind(target + i * self.side * self.mixed_stride))

    def _zero(self, mixed: Expr, start: Expr) -> None:
        """Set all channels of a place in ``mixed`` to zero."""
        emit.sweep(self.channels, self.lanes, lambda at, n: emit.store(mixed, start + at, emit.splat(0.0, n), n))

    def _multiply(self, k_tile: Expr, position: Expr, count: Expr, scratch: TileScratch) -> None:
        """The sums over channels of one position, for all tiles of the task."""
        tile, columns = self.tile, self.tile.columns
        steps, transformed = self.padded // self.products.GROUP, self.buffers["transformed"]
        across = emit.ceil_div(count, columns)
        place = emit.bind(k_tile * self.tiling.positions + position)
        packed, channel = emit.bind(place * self.slice), emit.bind(place * tile.channels)
        # The register tiles share the next position's filters among them.
        stride = -(-self.slice // (math.ceil(self.tiling.tiles / columns) * steps))
        with T.serial(0, across) as index:
            column = emit.bind(emit.maximum(emit.minimum(index * columns, count - columns), 0))
            self._ask_for_outputs(k_tile, position, column, scratch.places)
            totals = registers(tile, tile.element.accumulator)
            start_sums(totals, self.starts(channel))
            following = emit.bind(packed + self.slice + index * (steps * stride))

            def ask_for_filters(step: Expr, count: int, following: Expr = following) -> None:
                emit.prefetch_elements(transformed, following + step * stride, count * stride, tile.element)

            add_products(
                totals,
                self.products,
                tile,
                Place(scratch.values, emit.bind(column * self.value_stride + position * self.padded)),
                Place(transformed, packed),
                steps,
                [p * self.value_stride for p in range(columns)],
                ask_for_filters if self.streamed else None,
            )
            self.store_sums(totals, channel, column, position, scratch)

    def sums_at(self, column: Expr, position: Expr) -> Expr:
        """Where the sums of a task's tile begin at a position."""
        return emit.bind(column * self.sum_stride + position * self.tile.channels)

    def _ask_for_outputs(self, k_tile: Expr, position: Expr, column: Expr, places: Expr) -> None:
        """Ask for a pixel of a register tile's outputs at each of the last positions: stores would wait for them."""
        late = self.tiling.positions - self.size**2
        with T.If(position >= late), T.Then():
            number = emit.bind(position - late)
            pixel = emit.bind(number // self.size * self.out_w + number % self.size)
            at = emit.bind(pixel * self.out_channels + k_tile * self.tile.channels)
            for p in range(self.tile.columns):
                for line in range(0, self.tile.channels, _LINE):
                    emit.prefetch(self.y, places[column + p] + at + line, to_write=True)

    def _transform_outputs(self, k_tile: Expr, t: Expr, outputs: Rectangle, scratch: TileScratch) -> None:
        """Aᵀ M A of one tile, and the epilogue; the last output channels may be fewer."""
        rest = self.out_channels - (self.layout.tiles - 1) * self.tile.channels
        write_valid(
            k_tile,
            self.layout.tiles,
            (self.tile.channels, rest),
            lambda valid: self._store_tile(k_tile, t, outputs, scratch, valid),
        )

    def _store_tile(self, k_tile: Expr, t: Expr, outputs: Rectangle, scratch: TileScratch, valid: int) -> None:
        read = emit.bind(t * self.sum_stride)
        size, side, lanes, matrix = self.size, self.side, self.lanes, OUTPUT[self.size]
        at = emit.bind(scratch.places[t] + k_tile * self.tile.channels)
        rows = emit.bind(emit.minimum(size, self.out_h - outputs.row))
        columns = emit.bind(emit.minimum(size, self.out_w - outputs.column))
        pieces = tile_pieces(self.tile, valid)
        residual = self.buffers.get("residual")
        for v, offset, n in pieces:
            with T.serial(0, side) as j:
                start = emit.bind(read + v * lanes + offset + j * self.tile.channels)
                column = [
                    T.bind(emit.load(scratch.sums, start + i * side * self.tile.channels, n)) for i in range(side)
                ]
                for i, value in enumerate(combine(matrix, column, fused(n))):
                    emit.store(scratch.half, (i * side + j) * lanes, value, n)
            bias = T.bind(emit.load(self.buffers["bias"], k_tile * self.tile.channels + v * lanes + offset, n))
            with T.serial(0, rows) as i:
                row = [T.bind(emit.load(scratch.half, (i * side + j) * lanes, n)) for j in range(side)]
                for j, value in enumerate(combine(matrix, row, fused(n))):
                    index = at + (i * self.out_w + j) * self.out_channels + v * lanes + offset
                    with T.If(j < columns), T.Then():
                        write_output(self.y, index, value + bias, n, residual, self.activation)
        if is_long(self.activation):
            with T.serial(0, rows) as i, T.serial(0, columns) as j:
                place = emit.bind(at + (i * self.out_w + j) * self.out_channels)
                activate(self.y, place, pieces, self.tile, self.activation)

    def _write_plain(self, k_tile: Expr, outputs: Rectangle) -> None:
        """A tile that isn't finite, for one tile of output channels."""
        named = self.buffers
        operands = Operands(self.x, named["filters"], named.get("scale"), named["bias"], named.get("residual"), self.y)
        write_plain(self.layout, self.lanes, self.activation, operands, outputs, (k_tile, 1))
