"""Means of rows of values that lie side by side."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import each_row, fold
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def row_mean_kernel(name: str, leading: Sequence[Any], size: int, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y): the mean over the last axis, (*leading, size) to ``leading``; it may start with the batch."""

    def body(x: Expr, y: Expr) -> None:
        def mean(row: Expr) -> None:
            start = emit.bind(row * size)
            total = fold(size, lanes, lambda at, n: emit.load(x, start + at, n), operator.add, 0.0)
            T.buffer_store(y, total * T.float32(1 / size), [row])

        each_row(leading, size, mean)

    return emit.kernel(name, [("x", (*leading, size), FLOAT32.dtype), ("y", leading, FLOAT32.dtype)], body)
