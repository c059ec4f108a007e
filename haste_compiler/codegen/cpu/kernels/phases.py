"""Taking images apart into the pixels that a dilated convolution's taps see together, and joining them again.

Every d-th row and column of an image is a phase, an image of its own, which a filter of dilation d meets as a plain
one. It can be computed by Winograd's algorithm.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import UNROLL
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

Size = tuple[int, int]


def phase_size(size: Size, dilation: Size) -> Size:
    """Rows and columns of a phase; where they don't go round, the last ones are beyond the image."""
    return -(-size[0] // dilation[0]), -(-size[1] // dilation[1])


def split_kernel(name: str, batch: int, size: Size, channels: int, dilation: Size, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y): (batch, *size, channels) to (batch · phases, *phase_size, channels), zeros past the image."""
    (height, width), (rows, columns), (down, across) = size, phase_size(size, dilation), dilation
    shapes = (batch, height, width, channels), (batch * down * across, rows, columns, channels)

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, batch * down * across * rows) as task:
            image, row = emit.bind(task // rows), emit.bind(task % rows * down + task // rows // across % down)
            first, source = emit.bind(image % across), emit.bind((image // (down * across) * height + row) * width)
            with T.serial(0, columns) as step:
                column = emit.bind(step * across + first)
                target = emit.bind((task * columns + step) * channels)
                with T.If(tirx.all(row < height, column < width)):
                    with T.Then():
                        _copy(x, emit.bind((source + column) * channels), y, target, channels, lanes)
                    with T.Else():
                        emit.sweep(channels, lanes, lambda i, n: emit.store(y, target + i, emit.splat(0.0, n), n))

    return _kernel(name, shapes, body)


def join_kernel(name: str, batch: int, size: Size, channels: int, dilation: Size, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y): what ``split_kernel`` does undone, without what is beyond the image."""
    (height, width), (rows, columns), (down, across) = size, phase_size(size, dilation), dilation
    shapes = (batch * down * across, rows, columns, channels), (batch, height, width, channels)

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, batch * height) as task:
            image, row = emit.bind(task // height), emit.bind(task % height)
            with T.serial(0, width) as column:
                phase = emit.bind((image * down + row % down) * across + column % across)
                place = (phase * rows + row // down) * columns + column // across
                _copy(x, emit.bind(place * channels), y, emit.bind((task * width + column) * channels), channels, lanes)

    return _kernel(name, shapes, body)


def _copy(x: Expr, source: Expr, y: Expr, target: Expr, channels: int, lanes: int) -> None:
    emit.sweep(channels, lanes, lambda i, n: emit.store(y, target + i, emit.load(x, source + i, n), n), UNROLL)


def _kernel(name: str, shapes: tuple[Any, Any], body: Any) -> tirx.PrimFunc:
    return emit.kernel(name, [("x", shapes[0], FLOAT32.dtype), ("y", shapes[1], FLOAT32.dtype)], body)
