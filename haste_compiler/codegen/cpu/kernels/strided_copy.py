"""Copying a view of a tensor: rows that lie without a gap, from wherever each begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, each_row
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def strided_copy_kernel(
    name: str, memory: Sequence[Any], shape: Sequence[Any], strides: Sequence[int], offset: int, lanes: int
) -> tirx.PrimFunc:
    """The kernel (x, y): the elements of x that are so far from each other, one behind the other in y.

    Args:
        name: its symbol.
        memory: shape of x, a ``DynamicBatch`` first or not.
        shape: of y, a ``DynamicBatch`` first or not.
        strides: elements of x from one to the next along each axis of y; 1 along the last.
        offset: of the first.
        lanes: of a vector.
    """
    leading, size = merged(shape, strides)

    def body(x: Expr, y: Expr) -> None:
        def copy(row: Expr) -> None:
            rest, source = row, offset
            for extent, stride in reversed(leading[1:]):
                source += rest % extent * stride
                rest = emit.bind(rest // extent)
            start = emit.bind(source + rest * leading[0][1])
            target = emit.bind(row * size)
            emit.sweep(size, lanes, lambda i, n: emit.store(y, target + i, emit.load(x, start + i, n), n), UNROLL)

        each_row([extent for extent, _ in leading], size, copy)

    return emit.kernel(name, [("x", memory, FLOAT32.dtype), ("y", shape, FLOAT32.dtype)], body)


def merged(shape: Sequence[Any], strides: Sequence[int]) -> tuple[list[tuple[Any, int]], int]:
    """(size, stride) of the leading axes, those joined that follow each other without a gap, and the size of a row."""
    first, *others = zip(shape, strides, strict=True)
    axes: list[tuple[Any, int]] = []
    for size, stride in others:
        if axes and axes[-1][1] == stride * size:
            axes[-1] = (axes[-1][0] * size, stride)
        elif size != 1:
            axes.append((size, stride))
    # The first axis may be the batch, which is no number.
    row = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
    return [first, *axes], row
