"""Copying the input rows that a task reads into a buffer with the padding around them."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry


def copy_rows(x: Expr, geometry: ConvGeometry, image: Expr, first: Expr, rows: int, lanes: int) -> tuple[Expr, Expr]:
    """Rows ``first`` to ``first + rows`` of the padded image (NHWC), each (left + W + right) · C elements.

    Returns the buffer and where the first row starts in it: without padding that is the image itself, uncopied.
    """
    height, width = geometry.input_size
    channels, (top, _, left, right) = geometry.in_channels, geometry.padding
    if not any(geometry.padding):
        return x, emit.bind((image * height + first) * width * channels)
    row_elements = (width + left + right) * channels
    window = T.alloc_buffer((rows * row_elements,), x.dtype)

    def zero(start: Expr, elements: int) -> None:
        emit.sweep(elements, lanes, lambda i, n: emit.store(window, start + i, emit.splat(0.0, n, x.dtype), n))

    with T.serial(0, rows) as row:
        source_row = emit.bind(first - top + row)
        target = emit.bind(row * row_elements)
        with T.If(tirx.all(source_row >= 0, source_row < height)):
            with T.Then():
                start = emit.bind((image * height + source_row) * width * channels)
                inner = emit.bind(target + left * channels)
                zero(target, left * channels)
                zero(inner + width * channels, right * channels)

                def copy(i: Expr, n: int) -> None:
                    emit.store(window, inner + i, emit.load(x, start + i, n), n)

                emit.sweep(width * channels, lanes, copy, unroll=4)
            with T.Else():
                zero(target, row_elements)
    return window, 0
