"""Changing the layout of activations: NCHW to NHWC and back, squares of vectors transposed in registers.

Images of a few channels, which most networks begin with, have no squares: vectors of each channel are interleaved.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr

_TASK_ROWS = 4
_TASK_VECTORS = 64


def transpose_kernel(
    name: str,
    batch: Batch,
    rows: int,
    columns: int,
    lanes: int,
    shapes: tuple[tuple[Any, ...], tuple[Any, ...]],
    element: Element = FLOAT32,
) -> tirx.PrimFunc:
    """The kernel (x, y): each of ``batch`` matrices of ``rows`` × ``columns`` transposed; ``shapes`` of x and y."""
    strip = lanes * _TASK_ROWS
    strips = -(-rows // strip)
    before, after = shapes
    arguments = [("x", before, element.dtype), ("y", after, element.dtype)]
    if rows <= emit.MOST_INTERLEAVED:
        return emit.kernel(name, arguments, lambda x, y: _interleave(x, y, batch, rows, columns, lanes))

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * strips) as task:
            image, first = emit.bind(task // strips), emit.bind(task % strips * strip)
            start = emit.bind(image * rows * columns)
            source, target = emit.bind(start + first * columns), emit.bind(start + first)
            count = emit.bind(emit.minimum(strip, rows - first))
            transpose_rows(x, y, (source, columns), (target, rows), (count, columns), lanes)

    return emit.kernel(name, arguments, body)


def transpose_rows(
    x: Expr, y: Expr, source: tuple[Expr, int], target: tuple[Expr, int], sizes: tuple[Expr, int], lanes: int
) -> None:
    """Transpose one matrix, without threads.

    Args:
        x, y: buffers.
        source, target: where the matrix begins in each, and how far a row is from the next.
        sizes: rows and columns of the matrix in ``x``.
        lanes: of a vector.
    """
    (read, stride), (written, step), (rows, columns) = source, target, sizes
    blocks = rows // lanes if isinstance(rows, int) else emit.bind(rows // lanes)

    def square(column: Expr, n: int) -> None:
        with T.serial(0, blocks) as block:
            row = emit.bind(block * lanes)
            at = emit.bind(written + column * step + row)
            values = [T.bind(emit.load(x, read + (row + r) * stride + column, n)) for r in range(lanes)]
            if n == lanes:
                for c, vector in enumerate(emit.transposed(values)):
                    emit.store(y, at + c * step, vector, lanes)
            else:
                for r, vector in enumerate(values):
                    emit.store(y, at + r, vector, n, stride=step)

    emit.sweep(columns, lanes, square)
    done = emit.bind(blocks * lanes)
    with T.serial(0, rows - done) as r:
        row = emit.bind(done + r)

        def single(column: Expr, n: int) -> None:
            value = emit.load(x, read + row * stride + column, n)
            emit.store(y, written + column * step + row, value, n, stride=step)

        emit.sweep(columns, lanes, single)


def _interleave(x: Expr, y: Expr, batch: Batch, rows: int, columns: int, lanes: int) -> None:
    vectors = columns // lanes
    tasks = max(1, -(-vectors // _TASK_VECTORS))

    def block(image: Expr, column: Expr, n: int) -> None:
        start = emit.bind(image * rows * columns)
        values = [T.bind(emit.load(x, start + row * columns + column, n)) for row in range(rows)]
        at = emit.bind(start + column * rows)
        for piece, mixed in enumerate(emit.interleaved(values, n)):
            emit.store(y, at + piece * n, mixed, n)

    with T.parallel(0, images_of(batch) * tasks) as task:
        image, first = emit.bind(task // tasks), emit.bind(task % tasks * _TASK_VECTORS)
        with T.serial(0, T.min(_TASK_VECTORS, vectors - first)) as i:
            block(image, (first + i) * lanes, lanes)
        if columns % lanes:
            with T.If(task % tasks == tasks - 1), T.Then():
                for start, n in emit.chunks(columns % lanes, lanes):
                    block(image, vectors * lanes + start, n)
