"""Layer normalisation: a row of values in the lanes, rows shared among the threads."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, each_row, fold
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def layer_norm_kernel(name: str, shape: Sequence[Any], axes: int, eps: float, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, weight, bias, y): ``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axes.

    The variance is the mean of the squares of ``x - mean``, in a second pass: a mean of squares less the square of the
    mean loses the digits that the two have in common.

    Args:
        name: its symbol.
        shape: of x and y, a ``DynamicBatch`` first or not.
        axes: how many of the last axes are normalised together; weight and bias have their shape.
        eps: added to the variance.
        lanes: of a vector.
    """
    leading, normalised = shape[: len(shape) - axes], tuple(shape[len(shape) - axes :])
    size = math.prod(normalised)

    def body(x: Expr, weight: Expr, bias: Expr, y: Expr) -> None:
        def normalise(row: Expr) -> None:
            start = emit.bind(row * size)
            total = fold(size, lanes, lambda at, n: emit.load(x, start + at, n), operator.add, 0.0)
            mean = T.bind(total / T.float32(size))

            def centred(at: Expr, n: int) -> Expr:
                return emit.load(x, start + at, n) - emit.splat(mean, n)

            def square(at: Expr, n: int) -> Expr:
                value = T.bind(centred(at, n))
                return value * value

            variance = T.bind(fold(size, lanes, square, operator.add, 0.0) / T.float32(size))
            scale = T.bind(T.float32(1) / tirx.sqrt(variance + T.float32(eps)))

            def write(at: Expr, n: int) -> None:
                value = centred(at, n) * emit.splat(scale, n) * emit.load(weight, at, n) + emit.load(bias, at, n)
                emit.store(y, start + at, value, n)

            emit.sweep(size, lanes, write, UNROLL)

        each_row(leading, size, normalise)

    arguments = [("x", shape), ("weight", normalised), ("bias", normalised), ("y", shape)]
    return emit.kernel(name, [(label, sizes, FLOAT32.dtype) for label, sizes in arguments], body)
