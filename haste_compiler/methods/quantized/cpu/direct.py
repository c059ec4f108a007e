"""A convolution of 8-bit integers as it is written: float32 images NHWC, int8 filters, the epilogue fused.

A task rounds the pixels, or the rows of an image, that it reads into memory of its own, and multiplies them with the
filters of a few tiles of output channels. Where the filters are 1×1 every pixel has a scale, and all pixels of all
images are one row. Else every row of an image has one: the sums of a row of taps are integers, which its scale makes
float32. Outputs that read a scale which is not finite are computed once more, in float32 (``plain``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import TileWriter, with_tiles_that_fit
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.direct_tasks import DirectTasks
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.plain import Operands, Rectangle, write_plain
from haste_compiler.methods.quantized.cpu.products import Place, Sums, add_products, registers, scaled_sums, start_sums
from haste_compiler.methods.quantized.cpu.scratch import Line, Scratch
from haste_compiler.methods.quantized.cpu.ternary import NarrowSums
from haste_compiler.methods.quantized.cpu.unit import Bytes, IntegerUnit
from haste_compiler.methods.quantized.reference.direct import by_pixels
from haste_compiler.methods.quantized.weights import check_sums, rows_of_taps


def pack_direct(
    weight: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    geometry: ConvGeometry,
    tiling: ConvTiling,
    unit: IntegerUnit,
    *,
    nonnegative: bool,
) -> list[NDArray[Any]]:
    """Filters (K, C / groups, kh, kw), their scales (K,) and the bias (K,), as ``direct_arguments`` names them."""
    if isinstance(unit, NarrowSums):
        assert np.abs(weight).max(initial=0) <= 1, "filters are not ternary"
    if isinstance(unit, Bytes):
        check_sums(rows_of_taps(torch.from_numpy(weight), geometry))
    layout, offset = filter_layout(geometry, tiling.tile.channels, unit), unit.offset(nonnegative)
    starts = [layout.pack_starts(weight, offset)] if offset else []
    return [layout.pack(weight), *starts, layout.pack_channels(scale), layout.pack_channels(bias)]


def direct_arguments(
    geometry: ConvGeometry,
    batch: Batch,
    tiling: ConvTiling,
    unit: IntegerUnit,
    *,
    nonnegative: bool,
    residual: bool = False,
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x first, then what ``pack_direct`` returns, y last."""
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    channels, out_shape = layout.tiles * layout.channels, (batch, *geometry.output_size, geometry.out_channels)
    starts = [("starts", (channels * geometry.kernel[0],), "int32")] if unit.offset(nonnegative) else []
    return [
        ("x", (batch, *geometry.input_size, geometry.in_channels), "float32"),
        ("filters", (layout.tiles * layout.tile_elements,), "int8"),
        *starts,
        ("scale", (channels,), "float32"),
        ("bias", (channels,), "float32"),
        *([("residual", out_shape, "float32")] if residual else []),
        ("y", out_shape, "float32"),
    ]


def direct_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: ConvTiling,
    unit: IntegerUnit,
    *,
    nonnegative: bool,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, what ``pack_direct`` returns[, residual NHWC], y NHWC).

    Args:
        name: its symbol.
        geometry: the convolution's.
        batch: images.
        tiling: see ``direct_tiling.choose_direct``.
        unit: what multiplies.
        nonnegative: no input is negative.
        residual: something is added before the activation.
        activation: see ``apply_activation``.
    """
    arguments = direct_arguments(geometry, batch, tiling, unit, nonnegative=nonnegative, residual=residual)

    def body(*buffers: Expr) -> None:
        named = {label: buffer for (label, _, _), buffer in zip(arguments, buffers, strict=True)}
        starts = named.pop("starts", None)
        operands = Operands(**{"residual": None, **named})
        convolution = _Pixels if by_pixels(geometry) else _Rows

        def write(tiling: ConvTiling) -> None:
            convolution(geometry, batch, tiling, unit, operands, starts, activation, nonnegative=nonnegative).write()

        if by_pixels(geometry):
            with_tiles_that_fit(write, tiling, batch, math.prod(geometry.output_size))
        else:
            write(tiling)

    return emit.kernel(name, arguments, body)


class _Direct(DirectTasks):
    """Emits one kernel; the methods go from the tasks inwards to the register tile."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: ConvTiling,
        unit: IntegerUnit,
        operands: Operands,
        starts: Expr | None,
        activation: str,
        *,
        nonnegative: bool,
    ) -> None:
        super().__init__(geometry, batch, tiling, unit)
        self.unit, self.operands, self.starts = unit, operands, starts
        self.activation, self.nonnegative = activation, nonnegative

    def _group_offset(self, k_tile: Expr) -> Expr:
        """Where the channels of a tile's conv group begin in a pixel."""
        per_group = self.geometry.in_channels // self.geometry.groups
        return 0 if self.geometry.groups == 1 else k_tile // self.layout.group_tiles * per_group

    def _sum_row(
        self, sums: Sums, k_tile: Expr, i: Expr, source: Place, offsets: list[Expr], following: tuple[Expr, Expr] | None
    ) -> None:
        """Sum the products of a row of taps, ``i``, from the tile's first pixel on.

        ``following`` says which filters are asked for meanwhile: the first, and how many at each step.
        """
        layout, dilation = self.layout, self.geometry.dilation[1]
        starts = None
        if self.starts is not None:
            starts = Place(self.starts, emit.bind((k_tile * self.geometry.kernel[0] + i) * layout.channels))
        start_sums(sums, starts)
        with T.serial(0, layout.taps) as j:
            filters = emit.bind(k_tile * layout.tile_elements + i * layout.row_elements + j * layout.tap_elements)
            read = emit.bind(source.index + j * dilation * self.geometry.in_channels)

            def ask(step: Expr, count: int) -> None:
                if following is not None:
                    first, stride = following
                    done = (i * layout.taps + j) * layout.steps + step
                    for line in range(math.ceil(stride * count / emit.LINE_BYTES)):
                        emit.prefetch(self.operands.filters, first + done * stride + line * emit.LINE_BYTES)

            add_products(
                sums,
                self.unit,
                self.tile,
                Place(source.buffer, read),
                Place(self.operands.filters, filters),
                layout.steps,
                offsets,
                ask,
            )

    def _factors(self, k_tile: Expr, scale: Expr) -> list[Expr]:
        """What the sums of each vector of output channels are multiplied by."""
        lanes = self.tile.lanes
        at = k_tile * self.tile.channels
        return [
            T.bind(emit.load(self.operands.scale, at + v * lanes, lanes) * emit.splat(scale, lanes))
            for v in range(self.tile.vectors)
        ]

    def _bias(self, k_tile: Expr) -> list[Expr]:
        lanes = self.tile.lanes
        return [
            T.bind(emit.load(self.operands.bias, k_tile * self.tile.channels + v * lanes, lanes))
            for v in range(self.tile.vectors)
        ]

    def _writer(self, size: tuple[int, Expr]) -> TileWriter:
        return TileWriter(self.geometry, self.tile, self.activation, self.operands.y, self.operands.residual, size)

    def _repair(self, outputs: Rectangle, tiles: tuple[Expr, Expr]) -> None:
        """Compute outputs in float32."""
        write_plain(self.layout, self.tile.lanes, self.activation, self.operands, outputs, tiles)


class _Pixels(_Direct):
    """Filters of one tap: the outputs of all images are one row of pixels, with a scale each."""

    def write(self) -> None:
        """See ``_Direct``."""
        columns, block = self.tile.columns, self.tiling.block
        pixels = emit.bind(self.images * math.prod(self.geometry.output_size))
        across = emit.ceil_div(pixels, columns)
        blocks = emit.ceil_div(across, block)
        writer = self._writer((1, pixels))
        passes = math.ceil(math.ceil(self.hint * math.prod(self.geometry.output_size) / columns) / block)
        # One cache line more between pixels: strides of a power of two would all fall into one cache set.
        pitch = self.geometry.in_channels + emit.LINE_BYTES // np.dtype(self.unit.DTYPE).itemsize
        loop, chunks = self._tasks(blocks)
        with loop as task:
            place, tiles = self._split(task, blocks, chunks)
            first_tile = emit.bind(place * block)
            count = emit.bind(emit.minimum(block, across - first_tile))
            first = emit.bind(emit.minimum(first_tile * columns, pixels - columns))
            end = emit.bind(emit.minimum((first_tile + count) * columns, pixels))
            scratch = Scratch(self.unit, block * columns, pitch, nonnegative=self.nonnegative)
            with T.serial(0, end - first) as number:
                self._round(scratch, first, number)
            with T.serial(0, tiles[1]) as k_step, T.serial(0, count) as step:
                k_tile = emit.bind(tiles[0] + k_step)
                column = emit.bind(emit.minimum((first_tile + step) * columns, pixels - columns))
                following = self._following(k_tile, step, block, passes)
                if chunks == 1 and self._reads_every_pixel:
                    self._ask_for_next_block(end, emit.bind(step * self.layout.tiles + k_step))
                self._register_tile(scratch, writer, k_tile, column, emit.bind(column - first), following)
            with T.If(scratch.spoiled.get() > 0), T.Then():
                self._repair_pixels(scratch, first, end, tiles)

    def _position(self, pixel: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, row and column of an output."""
        out_h, out_w = self.geometry.output_size
        image, rest = emit.bind(pixel // (out_h * out_w)), emit.bind(pixel % (out_h * out_w))
        return image, emit.bind(rest // out_w), emit.bind(rest % out_w)

    def _repair_pixels(self, scratch: Scratch, first: Expr, end: Expr, tiles: tuple[Expr, Expr]) -> None:
        """Compute outputs in float32 that read a pixel whose scale is not finite."""
        with T.serial(0, end - first) as number, T.If(scratch.is_spoiled(number)), T.Then():
            self._repair(Rectangle(*self._position(first + number)), tiles)

    @property
    def _reads_every_pixel(self) -> bool:
        """Whether outputs that follow each other read pixels that do."""
        return self.geometry.stride == (1, 1) and not any(self.geometry.padding)

    def _ask_for_next_block(self, pixel: Expr, part: Expr) -> None:
        """Ask for a part of the pixels that the next task rounds: it would wait for most of them.

        Args:
            pixel: the first of them.
            part: which, of as many as the task has register tiles.
        """
        of_line = emit.LINE_BYTES // FLOAT32.bytes
        lines = math.ceil(self.tile.columns * self.geometry.in_channels / of_line / self.layout.tiles)
        start = emit.bind(pixel * self.geometry.in_channels + part * (lines * of_line))
        with T.serial(0, lines) as line:
            emit.prefetch(self.operands.x, start + line * of_line)

    def _round(self, scratch: Scratch, first: Expr, number: Expr) -> None:
        """Round what an output reads."""
        geometry, channels = self.geometry, self.geometry.in_channels
        if self._reads_every_pixel:
            scratch.round(number, Line(self.operands.x, emit.bind((first + number) * channels), channels))
            return
        (height, width), (top, _, left, _) = geometry.input_size, geometry.padding
        image, out_row, out_column = self._position(first + number)
        row = emit.bind(out_row * geometry.stride[0] - top)
        column = emit.bind(out_column * geometry.stride[1] - left)
        source = Line(self.operands.x, emit.bind(((image * height + row) * width + column) * channels), channels)
        if not any(geometry.padding):
            scratch.round(number, source)
            return
        with T.If(tirx.all(row >= 0, row < height, column >= 0, column < width)):
            with T.Then():
                scratch.round(number, source)
            with T.Else():
                scratch.zero_line(number, channels)

    def _register_tile(
        self,
        scratch: Scratch,
        writer: TileWriter,
        k_tile: Expr,
        column: Expr,
        number: Expr,
        following: tuple[Expr, Expr] | None,
    ) -> None:
        """Sum and write one register tile, from an output on, which reads the ``number``-th pixel that was rounded."""
        sums = registers(self.tile, "int32")
        offsets = [p * scratch.pitch for p in range(self.tile.columns)]
        read = emit.bind(number * scratch.pitch + self._group_offset(k_tile))
        self._sum_row(sums, k_tile, 0, Place(scratch.values, read), offsets, following)
        scale, bias = (
            Place(each, emit.bind(k_tile * self.tile.channels)) for each in (self.operands.scale, self.operands.bias)
        )
        scales = [scratch.scales[number + p] for p in range(self.tile.columns)]
        writer.store(scaled_sums(sums, self.tile, scale, bias, scales), k_tile, 0, 0, column)


class _Rows(_Direct):
    """Filters of several taps: every row of an image has a scale."""

    def write(self) -> None:
        """See ``_Direct``."""
        geometry, block, columns = self.geometry, self.tiling.block, self.tile.columns
        (out_h, out_w), stride = geometry.output_size, geometry.stride[0]
        reach = (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
        _, _, left, right = geometry.padding
        row_elements = (left + geometry.input_size[1] + right) * geometry.in_channels
        blocks, across = math.ceil(out_h / block), math.ceil(out_w / columns)
        writer = self._writer(geometry.output_size)
        loop, chunks = self._tasks(self.images * blocks)
        with loop as task:
            place, tiles = self._split(task, self.images * blocks, chunks)
            image, first = emit.bind(place // blocks), emit.bind(place % blocks * block)
            count = emit.bind(emit.minimum(block, out_h - first))
            scratch = Scratch(self.unit, (block - 1) * stride + reach, row_elements, nonnegative=self.nonnegative)
            with T.serial(0, emit.bind((count - 1) * stride + reach)) as line:
                self._round(scratch, image, emit.bind(first * stride + line), line)
            with (
                T.serial(0, tiles[1]) as k_step,
                T.serial(0, count) as row,
                T.serial(0, across) as step,
            ):
                k_tile = emit.bind(tiles[0] + k_step)
                column = emit.bind(emit.minimum(step * columns, out_w - columns))
                index = emit.bind(row * across + step)
                following = self._following(k_tile, index, block * across, blocks * self.hint)
                totals = self._totals(scratch, k_tile, row, column, following)
                writer.store(totals, k_tile, image, first + row, column)
            with T.If(scratch.spoiled.get() > 0), T.Then(), T.serial(0, count) as row:
                self._repair_row(scratch, image, first, row, tiles)

    def _round(self, scratch: Scratch, image: Expr, padded_row: Expr, line: Expr) -> None:
        """Round a row of the padded image."""
        (height, width), channels = self.geometry.input_size, self.geometry.in_channels
        top, _, left, right = self.geometry.padding
        row = emit.bind(padded_row - top)

        def inner() -> None:
            source = Line(self.operands.x, emit.bind((image * height + row) * width * channels), width * channels)
            scratch.zero(line, left * channels)
            scratch.round(line, source, left * channels)
            scratch.zero(line, right * channels, (left + width) * channels)

        with T.If(tirx.all(row >= 0, row < height)):
            with T.Then():
                inner()
            with T.Else():
                scratch.zero_line(line, (left + width + right) * channels)

    def _totals(
        self, scratch: Scratch, k_tile: Expr, row: Expr, column: Expr, following: tuple[Expr, Expr] | None
    ) -> Sums:
        """The outputs of one register tile before the epilogue; ``row`` counts from the task's first."""
        geometry, tile = self.geometry, self.tile
        channels, (sh, sw) = geometry.in_channels, geometry.stride
        totals, sums = registers(tile, "float32"), registers(tile, "int32")
        for pixel in totals:
            for total, bias in zip(pixel, self._bias(k_tile), strict=True):
                total.set(bias)
        offsets: list[Expr] = [p * sw * channels for p in range(tile.columns)]
        corner = emit.bind(column * (sw * channels) + self._group_offset(k_tile))
        with T.serial(0, geometry.kernel[0]) as i:
            line = emit.bind(row * sh + i * geometry.dilation[0])
            source = Place(scratch.values, emit.bind(corner + line * scratch.pitch))
            self._sum_row(sums, k_tile, i, source, offsets, following)
            factors = self._factors(k_tile, scratch.scales[line])
            for wholes, pixel in zip(sums, totals, strict=True):
                for whole, total, factor in zip(wholes, pixel, factors, strict=True):
                    total.add(T.Cast(f"float32x{tile.lanes}", whole.get()) * factor)
        return totals

    def _repair_row(self, scratch: Scratch, image: Expr, first: Expr, row: Expr, tiles: tuple[Expr, Expr]) -> None:
        """Compute a row of outputs in float32 if it reads a row whose scale is not finite."""
        geometry = self.geometry
        spoiled = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, geometry.kernel[0]) as i:
            line = row * geometry.stride[0] + i * geometry.dilation[0]
            with T.If(scratch.is_spoiled(line)), T.Then():
                spoiled.set(T.int32(1))
        with T.If(spoiled.get() > 0), T.Then():
            self._repair(Rectangle(image, first + row, 0, 1, geometry.output_size[1]), tiles)
