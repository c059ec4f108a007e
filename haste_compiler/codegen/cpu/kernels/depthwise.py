"""Depthwise convolution: channels in the lanes, a few output pixels in registers, activations NHWC."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation, is_long, write_output
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

_STRIP = 32
"""Channels that are computed in all rows before the next ones, where that many rows are read again for each: what they
read stays in the first-level cache."""

_FEW_ROWS = 5
"""Rows of a filter up to which all channels are computed at once, as they follow each other in memory."""

_MOST_UNROLLED = 3
"""Rows of a filter that are written out where all fall on the image: LLVM takes minutes over 49 unrolled taps."""


def pack_depthwise_filters(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, 1, kh, kw) to [kh · kw][C], flat."""
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T).reshape(-1)


def depthwise_arguments(
    geometry: ConvGeometry, batch: Batch, *, residual: bool = False, element: Element = FLOAT32
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x NHWC, packed filters, bias (C,)[, residual NHWC], y NHWC."""
    channels = geometry.in_channels
    out_shape = (batch, *geometry.output_size, channels)
    return [
        ("x", (batch, *geometry.input_size, channels), element.dtype),
        ("filters", (geometry.taps * channels,), element.dtype),
        ("bias", (channels,), element.accumulator),
        *([("residual", out_shape, element.dtype)] if residual else []),
        ("y", out_shape, element.dtype),
    ]


def depthwise_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    unit: VectorUnit,
    threads: int,
    *,
    residual: bool = False,
    activation: str = "none",
    element: Element = FLOAT32,
) -> tirx.PrimFunc:
    """The kernel; see ``depthwise_arguments``. Sums start with the bias."""
    arguments = depthwise_arguments(geometry, batch, residual=residual, element=element)
    block = _block_rows(geometry, hint_of(batch), unit, threads, element)

    def body(*buffers: Expr) -> None:
        _Depthwise(geometry, batch, unit, block, activation, buffers, element).write()

    return emit.kernel(name, arguments, body)


class Plane(Protocol):
    """Rows of an image's pixels in memory."""

    @property
    def buffer(self) -> Expr:
        """Where they lie."""

    @property
    def pitch(self) -> int:
        """Elements from one pixel of a row to the next."""

    def row(self, row: Expr) -> Expr:
        """The element that a row of the image begins with."""


@dataclass(frozen=True)
class ImagePlane:
    """An image of a tensor NHWC.

    Attributes:
        buffer: the tensor.
        pitch: channels of a pixel.
        first: the element that the image begins with.
        width: of the image.
    """

    buffer: Expr
    pitch: int
    first: Expr
    width: int

    def row(self, row: Expr) -> Expr:
        """See ``Plane``."""
        return emit.bind(self.first + row * (self.width * self.pitch))


class _Depthwise:
    """Emits one kernel."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        unit: VectorUnit,
        block: int,
        activation: str,
        buffers: Sequence[Expr],
        element: Element,
    ) -> None:
        self.geometry, self.block, self.images = geometry, block, images_of(batch)
        self.x, self.y = buffers[0], buffers[-1]
        residual = buffers[3] if len(buffers) == 5 else None
        self.rows = DepthwiseRows(geometry, unit, activation, (buffers[1], buffers[2]), element, residual)

    def write(self) -> None:
        """All tasks, in parallel."""
        channels, (height, width) = self.geometry.in_channels, self.geometry.input_size
        out_h, out_w = self.geometry.output_size
        blocks = math.ceil(out_h / self.block)
        with T.parallel(0, self.images * blocks) as task:
            image, first = emit.bind(task // blocks), emit.bind(task % blocks * self.block)
            rows = emit.bind(emit.minimum(self.block, out_h - first))
            source = ImagePlane(self.x, channels, emit.bind(image * (height * width * channels)), width)
            target = ImagePlane(self.y, channels, emit.bind(image * (out_h * out_w * channels)), out_w)
            self.rows.write(source, target, first, rows)


class DepthwiseRows:
    """Emits rows of a depthwise convolution; the methods go from the rows inwards to the register tile.

    Padding is never read: rows that lie in it are left out of the loop over the filter's rows, and tiles of pixels at
    the left and right end, whose column is known, leave out the taps that fall on it.

    Args:
        geometry: the convolution's.
        unit: the target's vector unit.
        activation: see ``apply_activation``.
        weights: packed filters and bias.
        element: of images and filters.
        residual: what is added before the activation, laid out as the target; None: nothing.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        unit: VectorUnit,
        activation: str,
        weights: tuple[Expr, Expr],
        element: Element = FLOAT32,
        residual: Expr | None = None,
    ) -> None:
        self.geometry, self.activation, self.lanes = geometry, activation, unit.lanes
        self.strip = geometry.in_channels if geometry.kernel[0] <= _FEW_ROWS else min(_STRIP, geometry.in_channels)
        (self.filters, self.bias), self.residual = weights, residual
        self.channels, self.element = geometry.in_channels, element
        self.out_w = geometry.output_size[1]
        self.pixels = min(self.out_w, max(1, min(8, (unit.registers - 2) // 2)))

    def write(self, source: Plane, target: Plane, first: Expr, rows: Expr) -> None:
        """Compute ``rows`` output rows from ``first`` on."""
        whole, rest = divmod(self.channels, self.strip)
        with T.serial(0, whole) as strip:
            self._rows(source, target, (first, rows), emit.bind(strip * self.strip), self.strip)
        if rest:
            self._rows(source, target, (first, rows), whole * self.strip, rest)

    def _rows(self, source: Plane, target: Plane, rows: tuple[Expr, Expr], channel: Expr, count: int) -> None:
        """``count`` channels of some output rows: the first and how many."""
        with T.serial(0, rows[1]) as step:
            self._row(source, target, emit.bind(rows[0] + step), (channel, count))

    def _row(self, source: Plane, target: Plane, row: Expr, channels: tuple[Expr, int]) -> None:
        """Some channels of one output row: the first and how many."""
        height, dilation = self.geometry.input_size[0], self.geometry.dilation[0]
        read = emit.bind(row * self.geometry.stride[0] - self.geometry.padding[0])
        # The filter's rows that fall on the image.
        low = emit.bind(T.max(0, (dilation - 1 - read) // dilation))
        high = emit.bind(T.min(self.geometry.kernel[0], (height - read + dilation - 1) // dilation))
        place = _Row(source, target, read, emit.bind(target.row(row)), low, high)
        kh = self.geometry.kernel[0]
        if kh > _MOST_UNROLLED:
            self._tiles(place, channels)
            return
        with T.If(high - low == kh):
            with T.Then():
                self._tiles(dataclasses.replace(place, low=0, high=kh), channels)
            with T.Else():
                self._tiles(place, channels)

    def _tiles(self, row: _Row, channels: tuple[Expr, int]) -> None:
        """Some channels of all tiles of pixels of a row."""

        def tile(known: int, _: Expr, column: Expr) -> None:
            self._tile(row, column, self._taps(known), channels)

        emit.each_tile(self.out_w, self.pixels, lambda at: len(self._taps(at)) == self._all_taps(), tile)

    def _taps(self, column: int) -> list[tuple[int, int]]:
        """(tap, pixel) of one row of the filter, for the tile that begins at ``column``, that fall on the image."""
        left, width = self.geometry.padding[2], self.geometry.input_size[1]
        stride, dilation = self.geometry.stride[1], self.geometry.dilation[1]
        return [
            (j, p)
            for j in range(self.geometry.kernel[1])
            for p in range(self.pixels)
            if 0 <= (column + p) * stride + j * dilation - left < width
        ]

    def _all_taps(self) -> int:
        return self.geometry.kernel[1] * self.pixels

    def _tile(self, row: _Row, column: Expr, taps: list[tuple[int, int]], channels: tuple[Expr, int]) -> None:
        """Some channels of one tile of pixels: ``taps`` of every row of the filter that falls on the image."""
        (_, kw), (_, sw), (dh, dw) = self.geometry.kernel, self.geometry.stride, self.geometry.dilation
        x, pitch, (first, count) = row.source.buffer, row.source.pitch, channels
        corner = emit.bind((column * sw - self.geometry.padding[2]) * pitch + first)
        out = emit.bind(row.start + column * row.target.pitch + first)

        def sweep(c: Expr, n: int) -> None:
            at = emit.bind(first + c)
            bias = T.bind(emit.load(self.bias, at, n))
            sums = [emit.Register(n, bias, self.element.accumulator) for _ in range(self.pixels)]

            def add_row(i: Expr) -> None:
                read = emit.bind(row.source.row(row.read + i * dh) + corner + c)
                for j in sorted({j for j, _ in taps}):
                    w = T.bind(emit.load(self.filters, (i * kw + j) * self.channels + at, n))
                    for p in (p for tap, p in taps if tap == j):
                        sums[p].add(emit.load(x, read + (j * dw + p * sw) * pitch, n) * w)

            if isinstance(row.high, int):
                for i in range(row.high):
                    add_row(i)
            else:
                with T.serial(row.low, T.max(row.low, row.high)) as i:
                    add_row(i)
            self._store(sums, row.target, emit.bind(out + c), n)

        emit.sweep(count, self.lanes, sweep)

    def _store(self, sums: list[emit.Register], target: Plane, out: Expr, n: int) -> None:
        """Residual, activation, store."""
        for p, register in enumerate(sums):
            at = out + p * target.pitch
            write_output(target.buffer, at, register.get(), n, self.residual, self.activation)
        if is_long(self.activation):
            with T.serial(0, self.pixels) as p:
                at = emit.bind(out + p * target.pitch)
                activated = apply_activation(emit.load(target.buffer, at, n), self.activation, n)
                emit.store(target.buffer, at, activated, n)


@dataclass(frozen=True)
class _Row:
    """An output row.

    Attributes:
        source: what is read.
        target: what is written.
        read: the row that the filter's first row falls on; it may lie in the padding.
        start: where the row begins in the target.
        low, high: first and last + 1 of the filter's rows that fall on the image; integers where all do.
    """

    source: Plane
    target: Plane
    read: Expr
    start: Expr
    low: Expr
    high: Expr


def _block_rows(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, element: Element) -> int:
    """Output rows of one task: its window in a quarter of the second-level cache, and enough tasks for the threads."""
    out_h = geometry.output_size[0]
    row_bytes = element.bytes * geometry.input_size[1] * geometry.in_channels
    fit = max(1, unit.l2_bytes // 4 // (row_bytes * geometry.stride[0]))
    share = max(1, math.ceil(out_h * batch / threads / 2))
    return max(1, min(out_h, fit, share))
