"""Changing the layout of activations: NCHW to NHWC and back, squares of vectors transposed in registers."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.emit import Expr
from haste_compiler.codegen.dynamic import Batch, images_of

_TASK_ROWS = 4


def transpose_kernel(
    name: str, batch: Batch, rows: int, columns: int, lanes: int, shapes: tuple[tuple[Any, ...], tuple[Any, ...]]
) -> tirx.PrimFunc:
    """The kernel (x, y): each of ``batch`` matrices of ``rows`` × ``columns`` transposed; ``shapes`` of x and y."""
    strip = lanes * _TASK_ROWS
    strips = -(-rows // strip)

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * strips) as task:
            image, first = emit.bind(task // strips), emit.bind(task % strips * strip)
            source, target = emit.bind(image * rows * columns), emit.bind(image * rows * columns)
            blocks = emit.bind(T.min(_TASK_ROWS, (rows - first) // lanes))

            def square(column: Expr, n: int) -> None:
                with T.serial(0, blocks) as block:
                    row = emit.bind(first + block * lanes)
                    at = emit.bind(target + column * rows + row)
                    values = [T.bind(emit.load(x, source + (row + r) * columns + column, n)) for r in range(lanes)]
                    if n == lanes:
                        for c, vector in enumerate(emit.transposed(values)):
                            emit.store(y, at + c * rows, vector, lanes)
                    else:
                        for r, vector in enumerate(values):
                            emit.store(y, at + r, vector, n, stride=rows)

            emit.sweep(columns, lanes, square)
            done = emit.bind(first + blocks * lanes)
            with T.serial(0, T.min(first + strip, rows) - done) as r:
                row = emit.bind(done + r)

                def single(column: Expr, n: int) -> None:
                    value = emit.load(x, source + row * columns + column, n)
                    emit.store(y, target + column * rows + row, value, n, stride=rows)

                emit.sweep(columns, lanes, single)

    before, after = shapes
    return emit.kernel(name, [("x", before, "float32"), ("y", after, "float32")], body)
