"""Pixels of NHWC images picked by row and column: padding with what is there, resizing by nearest neighbours."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import UNROLL
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def gather_kernel(
    name: str,
    batch: Batch,
    before: tuple[int, int],
    after: tuple[int, int],
    channels: int,
    lanes: int,
    fill: float | None = None,
) -> tirx.PrimFunc:
    """The kernel (x NHWC, rows, columns, y NHWC): pixel (i, j) of y is pixel (rows[i], columns[j]) of x.

    Args:
        name: its symbol.
        batch: images.
        before, after: height and width of x and y.
        channels: of both.
        lanes: of a vector.
        fill: the value of pixels whose row or column is negative; None: none is.
    """
    (height, width), (new_height, new_width) = before, after

    def body(x: Expr, rows: Expr, columns: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * new_height) as task:
            row = emit.bind(rows[task % new_height])
            line = emit.bind((task // new_height * height + row) * width)
            with T.serial(0, new_width) as column:
                source = emit.bind((line + columns[column]) * channels)
                target = emit.bind((task * new_width + column) * channels)

                def copied(at: Expr, n: int, source: Expr = source, target: Expr = target) -> None:
                    emit.store(y, target + at, emit.load(x, source + at, n), n)

                def filled(at: Expr, n: int, target: Expr = target) -> None:
                    emit.store(y, target + at, emit.splat(float(fill or 0.0), n), n)

                if fill is None:
                    emit.sweep(channels, lanes, copied, UNROLL)
                else:
                    with T.If(T.min(row, columns[column]) < 0):
                        with T.Then():
                            emit.sweep(channels, lanes, filled, UNROLL)
                        with T.Else():
                            emit.sweep(channels, lanes, copied, UNROLL)

    arguments = [
        ("x", (batch, height, width, channels), FLOAT32.dtype),
        ("rows", (new_height,), "int32"),
        ("columns", (new_width,), "int32"),
        ("y", (batch, new_height, new_width, channels), FLOAT32.dtype),
    ]
    return emit.kernel(name, arguments, body)
