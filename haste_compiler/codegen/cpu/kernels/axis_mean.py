"""Means over an axis that others lie behind, such as that of the heads of attention."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, each_row, places_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def axis_mean_kernel(
    name: str, shape: tuple[Any, ...], x: Operand, taken: tuple[int, int], lanes: int
) -> tirx.PrimFunc:
    """The kernel (x, y): the mean over one axis.

    Args:
        name: its symbol.
        shape: of y, that of x without the axis; it may start with the batch.
        x: where the tensor lies, ``strides`` without the axis, columns without a gap.
        taken: how long the axis is, and how far its elements are from the next.
        lanes: of a vector.
    """
    *leading, width = shape
    count, step = taken

    def body(x_: Expr, y: Expr) -> None:
        def mean(row: Expr) -> None:
            at = emit.bind(x.at(places_of(leading, row)))

            def piece(c: Expr, n: int) -> None:
                total = emit.Register(n, 0.0)
                with T.serial(0, count) as number:
                    total.add(emit.load(x_, at + c + number * step, n))
                emit.store(y, row * width + c, total.get() * emit.splat(1 / count, n), n)

            emit.sweep(width, lanes, piece, UNROLL)

        each_row(leading, width * count, mean)

    return emit.kernel(name, [("x", x.shape, FLOAT32.dtype), ("y", shape, FLOAT32.dtype)], body)
