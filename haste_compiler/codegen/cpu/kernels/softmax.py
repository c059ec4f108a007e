"""Softmax over rows: three passes over what the first-level cache holds."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import exp
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, each_row, fold
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

_LEAST = -87.3
"""Whose exponential is about the smallest number that isn't denormal; a product with a denormal takes 100 cycles."""


def exponentials(source: tuple[Expr, Expr], target: tuple[Expr, Expr], size: int, largest: Expr, lanes: int) -> Expr:
    """Write ``exp(x - largest)`` of a row, and sum it up.

    Args:
        source, target: buffers and where the row begins in each; they may be the same.
        size: of the row.
        largest: what is subtracted.
        lanes: of a vector.

    Returns:
        The sum.
    """
    (x, read), (y, written) = source, target

    def power(at: Expr, n: int) -> Expr:
        below = emit.Register(n, emit.load(x, read + at, n) - emit.splat(largest, n)).get()
        least, zero = emit.splat(_LEAST, n), emit.splat(0.0, n)
        value = emit.Register(n, tirx.Select(below < least, zero, exp(below, n))).get()
        emit.store(y, written + at, value, n)
        return value

    return fold(size, lanes, power, operator.add, 0.0)


def softmax_kernel(name: str, shape: Sequence[Any], lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y): ``softmax(x)`` over the last axis.

    What is less than e^-87.3 of the largest value of its row becomes zero. Rows with a NaN, with infinity or with
    nothing but minus infinity become NaN, as in PyTorch.

    Args:
        name: its symbol.
        shape: of x and y, a ``DynamicBatch`` first or not.
        lanes: of a vector.
    """
    size = shape[-1]

    def body(x: Expr, y: Expr) -> None:
        def normalise(row: Expr) -> None:
            start = emit.bind(row * size)
            largest = fold(size, lanes, lambda at, n: emit.load(x, start + at, n), tirx.Max, -math.inf)

            total = exponentials((x, start), (y, start), size, largest, lanes)
            share = T.bind(T.float32(1) / total)

            def write(at: Expr, n: int) -> None:
                emit.store(y, start + at, emit.load(y, start + at, n) * emit.splat(share, n), n)

            emit.sweep(size, lanes, write, UNROLL)

        each_row(shape[:-1], size, normalise)

    return emit.kernel(name, [("x", shape, FLOAT32.dtype), ("y", shape, FLOAT32.dtype)], body)
