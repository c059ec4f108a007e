"""3×3 convolution of 8-bit integers by Winograd's minimal filtering (``codegen.winograd``) on a CPU.

A task transforms the inputs of some tiles and rounds them, by a scale for each tile and position. Then for a few output
channels it multiplies one matrix for each of the (m + 2)² positions, and transforms the sums back, with bias, residual
and activation, while they are in the second-level cache. Tiles overhang the output plane: what a tile holds depends on
its own window only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.plain import Operands, Rectangle, write_plain
from haste_compiler.methods.quantized.cpu.products import Place, add_products, registers, start_sums
from haste_compiler.methods.quantized.cpu.rounding import Largest, all_bits, is_finite, rounded, rounded_groups, scaling
from haste_compiler.methods.quantized.cpu.unit import Bytes, IntegerUnit
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling
from haste_compiler.methods.quantized.reference.rounding import most
from haste_compiler.methods.quantized.weights import check_sums

_LINE = emit.LINE_BYTES // 4
"""Elements of 32 bits in a cache line."""


def winograd_arguments(
    geometry: ConvGeometry, batch: Batch, tiling: WinogradTiling, unit: IntegerUnit, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x first, then what ``pack_winograd`` returns, y last."""
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    outputs = (batch, *geometry.output_size, geometry.out_channels)
    channels = layout.tiles * tiling.tile.channels
    sums = tiling.positions * channels
    return [
        ("x", (batch, *geometry.input_size, geometry.in_channels), "float32"),
        ("transformed", (sums * _padded_channels(geometry, unit),), "int8"),
        ("transformed_scale", (sums,), "float32"),
        *([("starts", (sums,), "int32")] if unit.offset(False) else []),
        ("filters", (layout.tiles * layout.tile_elements,), "int8"),
        ("scale", (channels,), "float32"),
        ("bias", (channels,), "float32"),
        *([("residual", outputs, "float32")] if residual else []),
        ("y", outputs, "float32"),
    ]


def pack_winograd(
    transformed: tuple[NDArray[np.int8], NDArray[np.float32]],
    plain: tuple[NDArray[np.int8], NDArray[np.float32]],
    bias: NDArray[np.float32] | None,
    geometry: ConvGeometry,
    tiling: WinogradTiling,
    unit: IntegerUnit,
) -> list[NDArray[Any]]:
    """Weights as the kernel takes them: what comes between x and the residual.

    Args:
        transformed: filters, int8 (K, C, m + 2, m + 2), and their scales, (K, m + 2, m + 2).
        plain: filters as they are, int8 (K, C, 3, 3), and their scales, (K,).
        bias: (K,) or None.
        geometry: the convolution's.
        tiling: how the kernel is cut.
        unit: what it multiplies with.
    """
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    filters, scale = transformed
    if isinstance(unit, Bytes):
        check_sums(torch.from_numpy(filters).movedim(1, -1))
    # [K tiles][positions][groups][vectors][parts][lanes][part]
    order = _channel_order(geometry.in_channels, unit)
    padded = np.pad(filters, ((0, 0), (0, len(order) - geometry.in_channels), (0, 0), (0, 0)))[:, order]
    split = (layout.tiles, tiling.tile.vectors, unit.lanes, -1, unit.DEPTH, layout.part, tiling.positions)
    tiles = layout.split(padded).reshape(split)
    packed = np.ascontiguousarray(tiles.transpose(0, 6, 3, 1, 4, 2, 5)).reshape(-1)

    def by_position(values: NDArray[Any]) -> NDArray[Any]:
        split = layout.split(values.reshape(geometry.out_channels, tiling.positions))
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(-1)

    starts = []
    if offset := unit.offset(False):
        starts.append(by_position(filters.sum(1, dtype=np.int32) * np.int32(-offset)))
    channels = [layout.pack_channels(values) for values in (plain[1], bias)]
    return [packed, by_position(scale), *starts, layout.pack(plain[0]), *channels]


def winograd_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: WinogradTiling,
    unit: IntegerUnit,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed weights[, residual NHWC], y NHWC)."""
    arguments = winograd_arguments(geometry, batch, tiling, unit, residual=residual)

    def body(*buffers: Expr) -> None:
        named = {label: buffer for (label, _, _), buffer in zip(arguments, buffers, strict=True)}
        _Winograd(geometry, batch, tiling, unit, activation, named).write()

    return emit.kernel(name, arguments, body)


def _fused(n: int) -> MultiplyAdd:
    """A multiply-add of ``n`` lanes that is one wherever it stands, so that results don't depend on the code around it.

    On a target without such instructions it is two wherever it stands.
    """
    kind, name = ("float32", "f32") if n == 1 else (f"float32x{n}", f"v{n}f32")

    def multiply_add(value: Expr, weight: Expr, total: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin(kind, f"llvm.fmuladd.{name}", value, emit.splat(weight, n), total)

    return multiply_add


def _padded_channels(geometry: ConvGeometry, unit: IntegerUnit) -> int:
    return math.ceil(geometry.in_channels / unit.GROUP) * unit.GROUP


def _channel_order(channels: int, unit: IntegerUnit) -> NDArray[np.int64]:
    """The channel that each integer in memory is of.

    A group holds one lane of several vectors: then rounded vectors are put together without moving values from lane to
    lane. Sums don't depend on the order, but where they have to fit 16 bits: then it is the channels' own.
    """
    if unit.DEPTH > 1:
        return np.arange(math.ceil(channels / unit.GROUP) * unit.GROUP)
    order = []
    for start, lanes in emit.chunks(channels // unit.GROUP, unit.lanes):
        block = np.arange(lanes * unit.GROUP).reshape(unit.GROUP, lanes)
        order.append(start * unit.GROUP + block.T.reshape(-1))
    rest = np.arange(channels // unit.GROUP * unit.GROUP, math.ceil(channels / unit.GROUP) * unit.GROUP)
    return np.concatenate([*order, rest])


@dataclass(frozen=True)
class _Scratch:
    """Memory of a task. What is found of each of its tiles lies together.

    Attributes:
        mixed: [positions][C]: the tile's window on its way through the transform, float32.
        largest: [positions][lanes]: of the window's absolute values, as ``Largest`` has them.
        factors: [positions]: what values are multiplied by before they are rounded.
        values: [tiles][positions][C]: rounded, of the unit's type; for the channels' order see ``_channel_order``.
        scales: [tiles][positions]: of the values.
        finite: [tiles]: whether all scales are.
        places: [tiles]: where its outputs begin in y.
        sums: [tiles][positions][tile channels]: of products, times their scales.
        half: [m][m + 2][lanes]: Aᵀ times the sums of a vector of output channels.
    """

    mixed: Expr
    largest: Expr
    factors: Expr
    values: Expr
    scales: Expr
    finite: Expr
    places: Expr
    sums: Expr
    half: Expr


class _Winograd:
    """Emits the transforms and the products; the methods go from the tasks inwards."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: WinogradTiling,
        unit: IntegerUnit,
        activation: str,
        buffers: dict[str, Expr],
    ) -> None:
        self.geometry, self.tiling, self.unit, self.activation = geometry, tiling, unit, activation
        self.buffers, self.x, self.y = buffers, buffers["x"], buffers["y"]
        self.size, self.side, self.tile, self.lanes = tiling.size, tiling.side, tiling.tile, unit.lanes
        self.channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.out_h, self.out_w = geometry.output_size
        self.rows, self.columns = tiling.grid(geometry)
        self.layout = filter_layout(geometry, self.tile.channels, unit)
        self.all_tiles = emit.bind(images_of(batch) * (self.rows * self.columns))
        self.blocks = emit.ceil_div(self.all_tiles, tiling.tiles)
        self.chunks = math.ceil(self.layout.tiles / tiling.channel_tiles)
        self.offset, self.limit = unit.offset(False), most(unit.bits, nonnegative=False)
        self.padded = _padded_channels(geometry, unit)
        # One cache line more between tiles: strides of a power of two would all fall into one cache set.
        self.value_stride = tiling.positions * self.padded + emit.LINE_BYTES // np.dtype(unit.DTYPE).itemsize
        self.sum_stride = tiling.positions * self.tile.channels + _LINE
        self.mixed_stride = self.channels + _LINE
        self.slice = self.padded * self.tile.channels
        self.streamed = self.layout.tiles * tiling.positions * self.slice >= STREAMED_BYTES

    def write(self) -> None:
        """All tasks, in parallel."""
        tiles = self.tiling.tiles
        with T.parallel(0, self.blocks * self.chunks) as task:
            chunk, block = emit.bind(task // self.blocks), emit.bind(task % self.blocks)
            first = emit.bind(block * tiles)
            whole = isinstance(self.all_tiles, int) and self.all_tiles % tiles == 0
            count = tiles if whole else emit.bind(emit.minimum(tiles, self.all_tiles - first))
            scratch = self._scratch()
            with T.serial(0, count) as t:
                outputs = self._outputs(first + t)
                pixel = (outputs.image * self.out_h + outputs.row) * self.out_w + outputs.column
                emit.store(scratch.places, t, pixel * self.out_channels)
                self._read_tile(outputs, scratch.mixed)
                self._round_tile(t, scratch)
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

    def _scratch(self) -> _Scratch:
        tiles, positions = self.tiling.tiles, self.tiling.positions
        return _Scratch(
            mixed=T.alloc_buffer((positions * self.mixed_stride,), "float32"),
            largest=T.alloc_buffer((positions * self.lanes,), "int32"),
            factors=T.alloc_buffer((positions,), "float32"),
            values=T.alloc_buffer((tiles * self.value_stride,), self.unit.DTYPE),
            scales=T.alloc_buffer((tiles * positions,), "float32"),
            finite=T.alloc_buffer((tiles,), "int32"),
            places=T.alloc_buffer((tiles,), "int32"),
            sums=T.alloc_buffer((tiles * self.sum_stride,), "float32"),
            half=T.alloc_buffer((self.size * self.side * self.lanes,), "float32"),
        )

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
                    for i, result in enumerate(combine(INPUT[self.size], rows, _fused(n))):
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

    def _round_tile(self, t: Expr, scratch: _Scratch) -> None:
        """Bᵀ X B, rounded."""
        side, positions, lanes = self.side, self.tiling.positions, self.lanes
        with T.serial(0, side) as i:
            self._mix_row(i, scratch.mixed, scratch.largest)
        worst = emit.Register(lanes, T.broadcast(T.int32(0), lanes), "int32")
        for start, n in emit.chunks(positions, lanes):
            each = [T.bind(emit.load(scratch.largest, (start + p) * lanes, lanes)) for p in range(n)]
            bits = all_bits(each, lanes)
            emit.store(worst.buffer, 0, T.max(emit.load(worst.buffer, 0, n), bits), n)
            factor, scale = scaling(bits, self.limit, n)
            emit.store(scratch.factors, start, factor, n)
            emit.store(scratch.scales, t * positions + start, scale, n)
        emit.store(scratch.finite, t, T.Cast("int32", is_finite(worst.fold(T.max))))
        with T.serial(0, positions) as position:
            written = emit.bind(t * self.value_stride + position * self.padded)
            self._round_position(position * self.mixed_stride, T.bind(scratch.factors[position]), written, scratch)

    def _mix_row(self, i: Expr, mixed: Expr, largest: Expr) -> None:
        """A row times B, in place, and the largest value of each position in every lane."""
        side, lanes = self.side, self.lanes
        found = [Largest(lanes) for _ in range(side)]

        def body(channel: Expr, n: int) -> None:
            at = [emit.bind((i * side + j) * self.mixed_stride + channel) for j in range(side)]
            results = combine(INPUT[self.size], [T.bind(emit.load(mixed, each, n)) for each in at], _fused(n))
            for each, result, index in zip(found, results, at, strict=True):
                each.include(result, n)
                emit.store(mixed, index, result, n)

        emit.sweep(self.channels, lanes, body)
        for j, each in enumerate(found):
            emit.store(largest, (i * side + j) * lanes, each.lanes(), lanes)

    def _round_position(self, read: Expr, factor: Expr, written: Expr, scratch: _Scratch) -> None:
        """Round a tile's channels at one position, from ``mixed[read]`` on."""
        group, dtype = self.unit.GROUP, self.unit.DTYPE
        if self.unit.DEPTH > 1:
            self._round_in_order(read, factor, written, scratch)
            return

        def write(start: Expr, vectors: Sequence[Expr], n: int) -> None:
            integers = rounded_groups(vectors, factor, self.offset, n, dtype)
            emit.store(scratch.values, written + start * group, integers, n * group)

        def body(start: Expr, n: int) -> None:
            write(start, [emit.load(scratch.mixed, read + start * group + g * n, n) for g in range(group)], n)

        whole = self.channels // group
        emit.sweep(whole, self.lanes, body)
        if rest := self.channels % group:
            some = [scratch.mixed[read + whole * group + g] for g in range(rest)]
            write(whole, [*some, *[T.float32(0)] * (group - rest)], 1)

    def _round_in_order(self, read: Expr, factor: Expr, written: Expr, scratch: _Scratch) -> None:
        """``_round_position`` where channels keep their order; what fills up the last group is left as it is."""

        def body(start: Expr, n: int) -> None:
            values = emit.load(scratch.mixed, read + start, n)
            integers = rounded(values, factor, self.offset, n, self.unit.DTYPE)
            emit.store(scratch.values, written + start, integers, n)

        emit.sweep(self.channels, 4 * self.lanes, body)

    def _multiply(self, k_tile: Expr, position: Expr, count: Expr, scratch: _Scratch) -> None:
        """The sums over channels of one position, for all tiles of the task, times their scales."""
        tile, lanes, columns = self.tile, self.lanes, self.tile.columns
        steps, transformed = self.padded // self.unit.GROUP, self.buffers["transformed"]
        across = emit.ceil_div(count, columns)
        place = emit.bind(k_tile * self.tiling.positions + position)
        packed, channel = emit.bind(place * self.slice), emit.bind(place * tile.channels)
        # The register tiles share the next position's filters among them.
        stride = -(-self.slice // (math.ceil(self.tiling.tiles / columns) * steps))
        with T.serial(0, across) as index:
            column = emit.bind(emit.maximum(emit.minimum(index * columns, count - columns), 0))
            self._ask_for_outputs(k_tile, position, column, scratch.places)
            totals = registers(tile, "int32")
            start_sums(totals, Place(self.buffers["starts"], channel) if self.offset else None)
            following = emit.bind(packed + self.slice + index * (steps * stride))

            def ask_for_filters(round_: Expr, count: int, following: Expr = following) -> None:
                wanted = count * stride
                emit.prefetch_elements(transformed, following + round_ * wanted, wanted, tile.element)

            add_products(
                totals,
                self.unit,
                tile,
                Place(scratch.values, emit.bind(column * self.value_stride + position * self.padded)),
                Place(transformed, packed),
                steps,
                [p * self.value_stride for p in range(columns)],
                ask_for_filters if self.streamed else None,
            )
            factors = [
                T.bind(emit.load(self.buffers["transformed_scale"], channel + v * lanes, lanes))
                for v in range(tile.vectors)
            ]
            for p, pixel in enumerate(totals):
                scale = T.bind(scratch.scales[(column + p) * self.tiling.positions + position])
                written = emit.bind((column + p) * self.sum_stride + position * tile.channels)
                for v, register in enumerate(pixel):
                    value = T.Cast(f"float32x{lanes}", register.get()) * (emit.splat(scale, lanes) * factors[v])
                    emit.store(scratch.sums, written + v * lanes, value, lanes)

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

    def _transform_outputs(self, k_tile: Expr, t: Expr, outputs: Rectangle, scratch: _Scratch) -> None:
        """Aᵀ M A of one tile, and the epilogue; the last output channels may be fewer."""
        rest = self.out_channels - (self.layout.tiles - 1) * self.tile.channels
        write_valid(
            k_tile,
            self.layout.tiles,
            (self.tile.channels, rest),
            lambda valid: self._store_tile(k_tile, t, outputs, scratch, valid),
        )

    def _store_tile(self, k_tile: Expr, t: Expr, outputs: Rectangle, scratch: _Scratch, valid: int) -> None:
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
                for i, value in enumerate(combine(matrix, column, _fused(n))):
                    emit.store(scratch.half, (i * side + j) * lanes, value, n)
            bias = T.bind(emit.load(self.buffers["bias"], k_tile * self.tile.channels + v * lanes + offset, n))
            with T.serial(0, rows) as i:
                row = [T.bind(emit.load(scratch.half, (i * side + j) * lanes, n)) for j in range(side)]
                for j, value in enumerate(combine(matrix, row, _fused(n))):
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
        operands = Operands(self.x, named["filters"], named["scale"], named["bias"], named.get("residual"), self.y)
        write_plain(self.layout, self.lanes, self.activation, operands, outputs, (k_tile, 1))
