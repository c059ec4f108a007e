"""What kernels over rows of values share: rows over the threads, a row's values in the lanes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import DynamicBatch, images_of
from haste_compiler.codegen.emit import Expr

TASK_VALUES = 1 << 14
"""Values of a task: enough to be worth waking a thread for."""

UNROLL = 4
"""Vectors at a time: of one sum, each addition would wait for the last."""


def matrices_of(leading: Sequence[Any]) -> Expr:
    """The product of some sizes inside a kernel; the first may be a ``DynamicBatch``."""
    if leading and isinstance(leading[0], DynamicBatch):
        return emit.bind(images_of(leading[0]) * math.prod(leading[1:]))
    return math.prod(leading)


def places_of(leading: Sequence[Any], matrix: Expr) -> list[Expr]:
    """The places along the leading axes of a matrix by its number."""
    places: list[Expr] = []
    for size in reversed(leading[1:]):
        places.append(emit.bind(matrix % size))
        matrix = emit.bind(matrix // size)
    return [matrix, *reversed(places)]


def each_row(leading: Sequence[Any], size: int, body: Callable[[Expr], None]) -> None:
    """Run ``body(row)`` for all rows of ``size`` values by number, in parallel; ``leading`` sizes count the rows."""
    rows, block = matrices_of(leading), max(1, TASK_VALUES // size)
    with T.parallel(0, emit.ceil_div(rows, block)) as task:
        first = emit.bind(task * block)
        with T.serial(0, emit.minimum(block, rows - first)) as row:
            body(emit.bind(first + row))


def fold(
    size: int,
    lanes: int,
    value: Callable[[Expr, int], Expr],
    combine: Callable[[Expr, Expr], Expr],
    initial: float,
) -> Expr:
    """``value(start, width)`` of all ``size`` elements, combined into one; ``initial`` changes nothing."""
    results = {n: [emit.Register(n, initial)] for _, n in emit.chunks(size % lanes, lanes)}
    if vectors := size // lanes:
        results[lanes] = [emit.Register(lanes, initial) for _ in range(min(UNROLL, vectors))]
    turns = {n: cycle(registers) for n, registers in results.items()}

    def piece(at: Expr, n: int) -> None:
        register = next(turns[n])
        register.set(combine(register.get(), value(at, n)))

    emit.sweep(size, lanes, piece, UNROLL)
    total: Expr = None
    for first, *others in results.values():
        for register in others:
            first.set(combine(first.get(), register.get()))
        part = first.fold(combine)
        total = part if total is None else T.bind(combine(total, part))
    return T.bind(total)
