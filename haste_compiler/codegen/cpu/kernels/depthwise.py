"""Depthwise convolution: channels in the lanes, a few output pixels in registers, activations NHWC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
"""Channels that a task computes in all its rows before the next ones: what they read stays in the first-level cache."""


def pack_depthwise_filters(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, 1, kh, kw) to [kh · kw][C], flat."""
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T).reshape(-1)


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
    """The kernel (x NHWC, packed filters, bias (C,)[, residual NHWC], y NHWC); sums start with the bias."""
    channels = geometry.in_channels
    out_shape = (batch, *geometry.output_size, channels)
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        ("x", (batch, *geometry.input_size, channels), element.dtype),
        ("filters", (geometry.taps * channels,), element.dtype),
        ("bias", (channels,), element.accumulator),
        *([("residual", out_shape, element.dtype)] if residual else []),
        ("y", out_shape, element.dtype),
    ]
    block = _block_rows(geometry, hint_of(batch), unit, threads, element)

    def body(*buffers: Expr) -> None:
        _Depthwise(geometry, batch, unit, block, activation, buffers, element).write()

    return emit.kernel(name, arguments, body)


@dataclass(frozen=True)
class _Row:
    """Some channels of an output row.

    Attributes:
        source: where the window of its first pixel begins in x, were there no padding to the left.
        target: where it begins in y.
        channel: the first channel.
        low, high: first and last + 1 of the filter's rows that fall on the image.
    """

    source: Expr
    target: Expr
    channel: Expr
    low: Expr
    high: Expr


class _Depthwise:
    """Emits one kernel; the methods go from the tasks inwards to the register tile.

    Padding is never read: rows that lie in it are left out of the loop over the filter's rows, and tiles of pixels at
    the left and right end, whose column is known, leave out the taps that fall on it.
    """

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
        self.geometry, self.block, self.activation, self.lanes = geometry, block, activation, unit.lanes
        self.images = images_of(batch)
        self.x, self.filters, self.bias, self.y = buffers[0], buffers[1], buffers[2], buffers[-1]
        self.residual = buffers[3] if len(buffers) == 5 else None
        self.channels, self.element = geometry.in_channels, element
        self.out_h, self.out_w = geometry.output_size
        self.pixels = min(self.out_w, max(1, min(8, (unit.registers - 6) // 2)))

    def write(self) -> None:
        """All tasks, in parallel."""
        blocks = math.ceil(self.out_h / self.block)
        with T.parallel(0, self.images * blocks) as task:
            image, first = emit.bind(task // blocks), emit.bind(task % blocks * self.block)
            rows = emit.bind(emit.minimum(self.block, self.out_h - first))
            whole = self.channels // _STRIP
            if whole:
                with T.serial(0, whole) as strip:
                    self._rows(image, first, rows, emit.bind(strip * _STRIP), _STRIP)
            if self.channels % _STRIP:
                self._rows(image, first, rows, whole * _STRIP, self.channels % _STRIP)

    def _rows(self, image: Expr, first: Expr, rows: Expr, channel: Expr, count: int) -> None:
        """``count`` channels of a task's output rows."""
        with T.serial(0, rows) as step:
            self._row(image, emit.bind(first + step), channel, count)

    def _row(self, image: Expr, row: Expr, channel: Expr, count: int) -> None:
        """Some channels of one output row."""
        height, width = self.geometry.input_size
        dilation, read = self.geometry.dilation[0], emit.bind(row * self.geometry.stride[0] - self.geometry.padding[0])
        # The filter's rows that fall on the image.
        low = emit.bind(T.max(0, (dilation - 1 - read) // dilation))
        high = emit.bind(T.min(self.geometry.kernel[0], (height - read + dilation - 1) // dilation))
        source = emit.bind((image * height + read) * width * self.channels + channel)
        target = emit.bind((image * self.out_h + row) * self.out_w * self.channels + channel)

        def tile(known: int, _: Expr, column: Expr) -> None:
            self._tile(_Row(source, target, channel, low, high), column, self._taps(known), count)

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

    def _tile(self, row: _Row, column: Expr, taps: list[tuple[int, int]], count: int) -> None:
        """Some channels of one tile of pixels: ``taps`` of every row of the filter that falls on the image."""
        (_, kw), (_, sw), (dh, dw) = self.geometry.kernel, self.geometry.stride, self.geometry.dilation
        row_elements = self.geometry.input_size[1] * self.channels
        corner = emit.bind(row.source + (column * sw - self.geometry.padding[2]) * self.channels)
        out = emit.bind(row.target + column * self.channels)

        def channels(c: Expr, n: int) -> None:
            at = emit.bind(row.channel + c)
            bias = T.bind(emit.load(self.bias, at, n))
            sums = [emit.Register(n, bias, self.element.accumulator) for _ in range(self.pixels)]
            # Rows stay a loop: LLVM takes minutes over 49 unrolled taps.
            with T.serial(row.low, T.max(row.low, row.high)) as i:
                read = emit.bind(corner + i * (dh * row_elements) + c)
                for j in sorted({j for j, _ in taps}):
                    w = T.bind(emit.load(self.filters, (i * kw + j) * self.channels + at, n))
                    for p in (p for tap, p in taps if tap == j):
                        sums[p].add(emit.load(self.x, read + (j * dw + p * sw) * self.channels, n) * w)
            self._store(sums, emit.bind(out + c), n)

        emit.sweep(count, self.lanes, channels)

    def _store(self, sums: list[emit.Register], out: Expr, n: int) -> None:
        """Residual, activation, store."""
        for p, register in enumerate(sums):
            write_output(self.y, out + p * self.channels, register.get(), n, self.residual, self.activation)
        if is_long(self.activation):
            with T.serial(0, self.pixels) as p:
                at = emit.bind(out + p * self.channels)
                emit.store(self.y, at, apply_activation(emit.load(self.y, at, n), self.activation, n), n)


def _block_rows(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, element: Element) -> int:
    """Output rows of one task: its window in a quarter of the second-level cache, and enough tasks for the threads."""
    out_h = geometry.output_size[0]
    row_bytes = element.bytes * geometry.input_size[1] * geometry.in_channels
    fit = max(1, unit.l2_bytes // 4 // (row_bytes * geometry.stride[0]))
    share = max(1, math.ceil(out_h * batch / threads / 2))
    return max(1, min(out_h, fit, share))
