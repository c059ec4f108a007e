"""A convolution of bfloat16 as it is written: float32 images NHWC, bfloat16 filters, the epilogue fused.

A task rounds the pixels, or the rows of an image, that it reads into memory of its own, and multiplies them with the
filters of a few tiles of output channels. Where the filters are 1×1 all pixels of all images are one row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import TileWriter, with_tiles_that_fit
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.bfloat16.cpu.unit import BFloat16Unit
from haste_compiler.methods.quantized.cpu.direct_tasks import DirectTasks
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.products import Place, Sums, add_products, registers, start_sums
from haste_compiler.methods.quantized.reference.direct import by_pixels

_UNROLL = 4
"""Vectors that one step of a loop over a line rounds."""


def pack_direct(
    weight: NDArray[np.uint16],
    bias: NDArray[np.float32] | None,
    geometry: ConvGeometry,
    tiling: ConvTiling,
    unit: BFloat16Unit,
) -> list[NDArray[Any]]:
    """Bits of filters (K, C / groups, kh, kw), and the bias (K,), as ``direct_arguments`` names them."""
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    return [layout.pack(weight), layout.pack_channels(bias)]


def direct_arguments(
    geometry: ConvGeometry, batch: Batch, tiling: ConvTiling, unit: BFloat16Unit, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x first, then what ``pack_direct`` returns, y last."""
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    out_shape = (batch, *geometry.output_size, geometry.out_channels)
    return [
        ("x", (batch, *geometry.input_size, geometry.in_channels), "float32"),
        ("filters", (layout.tiles * layout.tile_elements,), unit.FILTERS.dtype),
        ("bias", (layout.tiles * layout.channels,), "float32"),
        *([("residual", out_shape, "float32")] if residual else []),
        ("y", out_shape, "float32"),
    ]


def direct_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: ConvTiling,
    unit: BFloat16Unit,
    *,
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
        residual: something is added before the activation.
        activation: see ``apply_activation``.
    """
    arguments = direct_arguments(geometry, batch, tiling, unit, residual=residual)

    def body(*buffers: Expr) -> None:
        named = {label: buffer for (label, _, _), buffer in zip(arguments, buffers, strict=True)}

        def write(tiling: ConvTiling) -> None:
            convolution = _Pixels if by_pixels(geometry) else _Rows
            convolution(geometry, batch, tiling, unit, activation, named).write()

        with unit.code():
            if by_pixels(geometry):
                with_tiles_that_fit(write, tiling, batch, math.prod(geometry.output_size))
            else:
                write(tiling)

    return emit.kernel(name, arguments, body)


class _Direct(DirectTasks):
    """Emits one kernel; the methods go from the tasks inwards to the register tile.

    Args:
        geometry: the convolution's.
        batch: images.
        tiling: how the kernel is cut.
        unit: what multiplies.
        activation: see ``apply_activation``.
        buffers: by the names of ``direct_arguments``.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: ConvTiling,
        unit: BFloat16Unit,
        activation: str,
        buffers: dict[str, Expr],
    ) -> None:
        super().__init__(geometry, batch, tiling, unit)
        self.unit, self.activation = unit, activation
        self.x, self.filters, self.bias, self.y = (buffers[name] for name in ("x", "filters", "bias", "y"))
        self.residual = buffers.get("residual")

    def _round(self, values: Expr, written: Expr, read: Expr, elements: int) -> None:
        """Round neighbouring elements of the images, from ``read`` on, into ``values`` from ``written`` on."""

        def write(at: Expr, n: int) -> None:
            emit.store(values, written + at, self.unit.rounded(emit.load(self.x, read + at, n), n), n)

        emit.sweep(elements, self.unit.lanes, write, _UNROLL)

    def _zero(self, values: Expr, start: Expr, elements: int) -> None:
        """Set some of the rounded values to zero."""
        lanes = 2 * self.unit.lanes
        emit.sweep(elements, lanes, lambda at, n: emit.store(values, start + at, emit.splat(T.uint16(0), n), n))

    def _sums(
        self,
        k_tile: Expr,
        source: Place,
        taps: tuple[int, int],
        offsets: list[Expr],
        following: tuple[Expr, int] | None,
    ) -> Sums:
        """The outputs of a register tile before the epilogue.

        Args:
            k_tile: its tile of output channels.
            source: the rounded values that its first pixel reads at the first tap.
            taps: elements from one row of taps to the next, and from a tap to the next.
            offsets: of each pixel's values from the first one's.
            following: see ``_following``.
        """
        layout, unit = self.layout, self.unit
        sums = registers(self.tile, "float32")
        start_sums(sums, Place(self.bias, emit.bind(k_tile * layout.channels)))
        per_group = self.geometry.in_channels // self.geometry.groups
        group = 0 if self.geometry.groups == 1 else k_tile // layout.group_tiles * per_group
        corner = emit.bind(source.index + group)
        with T.serial(0, self.geometry.kernel[0]) as i, T.serial(0, layout.taps) as j:
            at = emit.bind(k_tile * layout.tile_elements + i * layout.row_elements + j * layout.tap_elements)
            read = emit.bind(corner + i * taps[0] + j * taps[1])

            def ask(step: Expr, count: int) -> None:
                if following is not None:
                    first, stride = following
                    done = (i * layout.taps + j) * layout.steps + step
                    emit.prefetch_elements(self.filters, first + done * stride, stride * count, unit.FILTERS)

            def add(unit: BFloat16Unit, skipped: int, steps: int) -> None:
                values = Place(source.buffer, read + skipped * unit.GROUP)
                filters = Place(self.filters, at + skipped * (layout.channels * unit.GROUP))
                add_products(sums, unit, self.tile, values, filters, steps, offsets, ask)

            # The value after an odd number of them is another tap's: where it is not finite, zero times it is NaN.
            pairs, rest = divmod(layout.length, unit.GROUP)
            if pairs:
                add(unit, 0, pairs)
            if rest:
                add(unit.first_only, pairs, 1)
        return sums

    def _writer(self, size: tuple[int, Expr]) -> TileWriter:
        return TileWriter(self.geometry, self.tile, self.activation, self.y, self.residual, size)


class _Pixels(_Direct):
    """Filters of one tap: the outputs of all images are one row of pixels."""

    def write(self) -> None:
        """See ``_Direct``."""
        columns, block, channels = self.tile.columns, self.tiling.block, self.geometry.in_channels
        plane = math.prod(self.geometry.output_size)
        pixels = emit.bind(self.images * plane)
        across = emit.ceil_div(pixels, columns)
        blocks = emit.ceil_div(across, block)
        writer = self._writer((1, pixels))
        passes = math.ceil(math.ceil(self.hint * plane / columns) / block)
        # One cache line more between pixels: strides of a power of two would all fall into one cache set.
        pitch = channels + emit.LINE_BYTES // self.unit.FILTERS.bytes
        loop, chunks = self._tasks(blocks)
        with loop as task:
            place, tiles = self._split(task, blocks, chunks)
            first_tile = emit.bind(place * block)
            count = emit.bind(emit.minimum(block, across - first_tile))
            first = emit.bind(emit.minimum(first_tile * columns, pixels - columns))
            end = emit.bind(emit.minimum((first_tile + count) * columns, pixels))
            values = T.alloc_buffer((block * columns * pitch,), self.unit.DTYPE)
            with T.serial(0, end - first) as number:
                self._round_pixel(values, emit.bind(number * pitch), emit.bind(first + number))
            with T.serial(0, tiles[1]) as k_step, T.serial(0, count) as step:
                k_tile = emit.bind(tiles[0] + k_step)
                column = emit.bind(emit.minimum((first_tile + step) * columns, pixels - columns))
                source = Place(values, emit.bind((column - first) * pitch))
                following = self._following(k_tile, step, block, passes)
                sums = self._sums(k_tile, source, (0, 0), [p * pitch for p in range(columns)], following)
                writer.store(sums, k_tile, 0, 0, column)

    def _round_pixel(self, values: Expr, written: Expr, pixel: Expr) -> None:
        """Round what an output reads."""
        geometry, channels = self.geometry, self.geometry.in_channels
        (height, width), (out_h, out_w) = geometry.input_size, geometry.output_size
        if geometry.stride == (1, 1) and not any(geometry.padding):
            self._round(values, written, emit.bind(pixel * channels), channels)
            return
        image, rest = emit.bind(pixel // (out_h * out_w)), emit.bind(pixel % (out_h * out_w))
        row = emit.bind(rest // out_w * geometry.stride[0] - geometry.padding[0])
        column = emit.bind(rest % out_w * geometry.stride[1] - geometry.padding[2])
        read = ((image * height + row) * width + column) * channels
        if not any(geometry.padding):
            self._round(values, written, emit.bind(read), channels)
            return
        with T.If(tirx.all(row >= 0, row < height, column >= 0, column < width)):
            with T.Then():
                self._round(values, written, emit.bind(read), channels)
            with T.Else():
                self._zero(values, written, channels)


class _Rows(_Direct):
    """Filters of several taps: a task rounds rows of an image, with the padding around them."""

    def write(self) -> None:
        """See ``_Direct``."""
        geometry, block, columns = self.geometry, self.tiling.block, self.tile.columns
        (out_h, out_w), (down, across), (below, right_of) = geometry.output_size, geometry.stride, geometry.dilation
        reach, channels = (geometry.kernel[0] - 1) * below + 1, geometry.in_channels
        _, _, left, right = geometry.padding
        row_elements = (left + geometry.input_size[1] + right) * channels
        blocks, tiles_across = math.ceil(out_h / block), math.ceil(out_w / columns)
        writer = self._writer(geometry.output_size)
        loop, chunks = self._tasks(self.images * blocks)
        with loop as task:
            place, tiles = self._split(task, self.images * blocks, chunks)
            image, first = emit.bind(place // blocks), emit.bind(place % blocks * block)
            count = emit.bind(emit.minimum(block, out_h - first))
            values = T.alloc_buffer((((block - 1) * down + reach) * row_elements,), self.unit.DTYPE)
            with T.serial(0, emit.bind((count - 1) * down + reach)) as line:
                self._round_row(values, emit.bind(line * row_elements), image, emit.bind(first * down + line))
            with T.serial(0, tiles[1]) as k_step, T.serial(0, count) as row, T.serial(0, tiles_across) as step:
                k_tile = emit.bind(tiles[0] + k_step)
                column = emit.bind(emit.minimum(step * columns, out_w - columns))
                following = self._following(
                    k_tile, emit.bind(row * tiles_across + step), block * tiles_across, blocks * self.hint
                )
                source = Place(values, emit.bind(row * down * row_elements + column * (across * channels)))
                offsets: list[Expr] = [p * across * channels for p in range(columns)]
                sums = self._sums(k_tile, source, (below * row_elements, right_of * channels), offsets, following)
                writer.store(sums, k_tile, image, first + row, column)

    def _round_row(self, values: Expr, written: Expr, image: Expr, padded_row: Expr) -> None:
        """Round a row of the padded image."""
        (height, width), channels = self.geometry.input_size, self.geometry.in_channels
        top, _, left, right = self.geometry.padding
        row = emit.bind(padded_row - top)
        with T.If(tirx.all(row >= 0, row < height)):
            with T.Then():
                self._zero(values, written, left * channels)
                read = emit.bind((image * height + row) * width * channels)
                self._round(values, emit.bind(written + left * channels), read, width * channels)
                self._zero(values, emit.bind(written + (left + width) * channels), right * channels)
            with T.Else():
                self._zero(values, written, (left + width + right) * channels)
