"""Layer normalisation: a row of values in the lanes, rows shared among the threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.emit import Expr
from haste_compiler.codegen.dynamic import DynamicBatch, images_of

_TASK_FLOATS = 1 << 14
_UNROLL = 4
"""Sums at a time, as one would wait for its last addition."""


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
    dynamic = bool(leading) and isinstance(leading[0], DynamicBatch)
    size, fixed_rows = math.prod(normalised), math.prod(leading[1:] if dynamic else leading)
    block = max(1, _TASK_FLOATS // size)

    def body(x: Expr, weight: Expr, bias: Expr, y: Expr) -> None:
        rows = emit.bind(images_of(leading[0]) * fixed_rows) if dynamic else fixed_rows
        with T.parallel(0, emit.ceil_div(rows, block)) as task:
            first = emit.bind(task * block)
            with T.serial(0, emit.minimum(block, rows - first)) as i:
                row = emit.bind((first + i) * size)
                mean = T.bind(_sum(size, lanes, lambda at, n: emit.load(x, row + at, n)) / T.float32(size))

                def centred(at: Expr, n: int) -> Expr:
                    return emit.load(x, row + at, n) - emit.splat(mean, n)

                variance = T.bind(_sum(size, lanes, lambda at, n: _square(centred(at, n))) / T.float32(size))
                scale = T.bind(T.float32(1) / tirx.sqrt(variance + T.float32(eps)))

                def write(at: Expr, n: int) -> None:
                    value = centred(at, n) * emit.splat(scale, n) * emit.load(weight, at, n) + emit.load(bias, at, n)
                    emit.store(y, row + at, value, n)

                emit.sweep(size, lanes, write, _UNROLL)

    arguments = [("x", shape), ("weight", normalised), ("bias", normalised), ("y", shape)]
    return emit.kernel(name, [(label, sizes, "float32") for label, sizes in arguments], body)


def _square(value: Expr) -> Expr:
    value = T.bind(value)
    return value * value


def _sum(size: int, lanes: int, value: Callable[[Expr, int], Expr]) -> Expr:
    """The sum of ``value(start, width)`` over ``size`` elements."""
    widths = {n for _, n in emit.chunks(size % lanes, lanes)}
    sums = {n: [emit.Register(n, 0.0)] for n in widths}
    vectors = size // lanes
    if vectors:
        sums[lanes] = [emit.Register(lanes, 0.0) for _ in range(min(_UNROLL, vectors))]
    turns = {n: cycle(registers) for n, registers in sums.items()}
    emit.sweep(size, lanes, lambda at, n: next(turns[n]).add(value(at, n)), _UNROLL)
    total: Expr = None
    for first, *others in sums.values():
        for register in others:
            first.add(register.get())
        total = first.total() if total is None else total + first.total()
    return total
