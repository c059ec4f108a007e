"""Depthwise transposed convolution by its phases: channels in the lanes, a few pixels of a phase in registers."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation, is_long, write_output
from haste_compiler.codegen.cpu.kernels.conv_transpose2d import TABLE_COLUMNS
from haste_compiler.codegen.cpu.kernels.window import copy_rows
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.transposed import Phased


def pack_depthwise_transposed(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, phased: Phased
) -> list[NDArray[Any]]:
    """(C, 1, kh, kw) and (C,) or None as the kernel takes them: table, filters [phase][tap][C], bias (C,), flat."""
    taps = [each.reshape(len(each), -1).T.reshape(-1) for each in phased.filters(weight)]
    return [phased.table().reshape(-1), np.concatenate(taps), phased.bias(bias)]


def depthwise_transposed_kernel(
    name: str,
    phased: Phased,
    batch: Batch,
    unit: VectorUnit,
    threads: int,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, table, packed filters, bias (C,)[, residual NHWC], y NHWC)."""
    geometry, channels = phased.geometry, phased.channels
    out_shape = (batch, *geometry.output_size, channels)
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        ("x", (batch, *geometry.input_size, channels), FLOAT32.dtype),
        ("table", (len(phased.taps) * TABLE_COLUMNS,), "int32"),
        ("filters", (sum(phased.taps) * channels,), FLOAT32.dtype),
        ("bias", (channels,), FLOAT32.dtype),
        *([("residual", out_shape, FLOAT32.dtype)] if residual else []),
        ("y", out_shape, FLOAT32.dtype),
    ]
    block = _block_rows(phased, hint_of(batch), unit, threads)

    def body(*buffers: Expr) -> None:
        _DepthwisePhases(phased, batch, unit, block, activation, list(buffers)).write()

    return emit.kernel(name, arguments, body)


class _DepthwisePhases:
    """Emits one kernel; the methods go from the tasks inwards to a few pixels."""

    def __init__(
        self,
        phased: Phased,
        batch: Batch,
        unit: VectorUnit,
        block: int,
        activation: str,
        buffers: list[Expr],
    ) -> None:
        self.phased, self.block, self.activation, self.lanes = phased, block, activation, unit.lanes
        self.images, self.reading = images_of(batch), phased.reading
        self.x, self.table, self.filters, self.bias, self.y = *buffers[:4], buffers[-1]
        self.residual = buffers[4] if len(buffers) == 6 else None
        self.channels = phased.channels
        self.out_h, self.out_w = phased.geometry.output_size
        vertical, horizontal = phased.axes
        self.rows, self.columns = vertical.count, horizontal.count
        self.pixels = min(self.columns, max(1, min(8, (unit.registers - 6) // 2)))
        self.row_elements = (self.reading.input_size[1] + sum(self.reading.padding[2:])) * self.channels

    def write(self) -> None:
        """All tasks, in parallel."""
        vertical = self.phased.axes[0]
        blocks, across = math.ceil(self.rows / self.block), len(self.phased.across)
        with T.parallel(0, self.images * blocks) as task:
            image, first = emit.bind(task // blocks), emit.bind(task % blocks * self.block)
            begin = first + (vertical.first + vertical.padding[0])
            rows = self.block + vertical.span
            source, start = copy_rows(self.x, self.reading, image, begin, rows, self.lanes)
            count = emit.bind(emit.minimum(self.block, self.rows - first))
            with T.serial(0, count) as step, T.serial(0, len(vertical.phases)) as down, T.serial(0, across) as right:
                row = emit.bind((first + step) * len(vertical.phases) + down)
                with ExitStack() as inside:
                    self._only_if(inside, row < self.out_h)
                    read = emit.bind(start + step * self.row_elements)
                    target = emit.bind((image * self.out_h + row) * self.out_w)
                    self._row(source, read, target, down * across + right, right)

    def _only_if(self, stack: ExitStack, condition: Expr) -> None:
        """Do what follows under a condition, where phases are uneven."""
        if not self.phased.is_even:
            contexts: list[AbstractContextManager[Any]] = [T.If(condition), T.Then()]
            for context in contexts:
                stack.enter_context(context)

    def _row(self, source: Expr, read: Expr, target: Expr, phase: Expr, right: Expr) -> None:
        """One phase of an output row; ``read`` is where the task's window begins for it, ``target`` the row's pixel."""
        line = [T.bind(self.table[phase * TABLE_COLUMNS + i]) for i in range(TABLE_COLUMNS)]
        corner = emit.bind(read + line[0] * self.row_elements + line[1] * self.channels)
        with T.serial(0, math.ceil(self.columns / self.pixels)) as step:
            column = emit.bind(emit.minimum(step * self.pixels, self.columns - self.pixels))
            begin = emit.bind(corner + column * self.channels)
            emit.sweep(
                self.channels,
                self.lanes,
                lambda c, n: self._tile(source, begin + c, (target, column, right), line[2:], c, n),
            )

    def _tile(
        self, source: Expr, read: Expr, place: tuple[Expr, Expr, Expr], taps: list[Expr], c: Expr, n: int
    ) -> None:
        """``n`` channels from ``c`` on of a few pixels; ``place`` is the row's first pixel in y, column and phase."""
        rows, columns, before = taps
        down, right = (axis.spread for axis in self.phased.axes)
        bias = T.bind(emit.load(self.bias, c, n))
        sums = [emit.Register(n, bias) for _ in range(self.pixels)]
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            w = T.bind(emit.load(self.filters, (before + i * columns + j) * self.channels + c, n))
            at = emit.bind(read + i * (down * self.row_elements) + j * (right * self.channels))
            for p, pixel in enumerate(sums):
                pixel.add(emit.load(source, at + p * self.channels, n) * w)
        target, column, phase = place

        def place_of(p: Expr, inside: ExitStack) -> Expr:
            to = emit.bind((column + p) * len(self.phased.across) + phase)
            self._only_if(inside, to < self.out_w)
            return emit.bind((target + to) * self.channels + c)

        for p, pixel in enumerate(sums):
            with ExitStack() as inside:
                write_output(self.y, place_of(p, inside), pixel.get(), n, self.residual, self.activation)
        if is_long(self.activation):
            with ExitStack() as inside:
                at = place_of(inside.enter_context(T.serial(0, self.pixels)), inside)
                emit.store(self.y, at, apply_activation(emit.load(self.y, at, n), self.activation, n), n)


def _block_rows(phased: Phased, batch: int, unit: VectorUnit, threads: int) -> int:
    """Rows of each phase in one task: their window in a quarter of the second-level cache, enough tasks for threads."""
    rows = phased.axes[0].count
    row_bytes = FLOAT32.bytes * phased.reading.input_size[1] * phased.channels
    share = math.ceil(rows * batch / threads / 2)
    return max(1, min(rows, unit.l2_bytes // 4 // row_bytes, share))
