"""Laying queries, keys and values out for attention's products, side by side in memory of a task."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr


def pack_rows(
    x: Expr,
    y: Expr,
    source: tuple[Expr, int, int],
    target: Expr,
    sizes: tuple[Expr, int],
    factor: float,
    lanes: int,
) -> None:
    """Rows times a factor, one after the other.

    Args:
        x, y: buffers.
        source: where the first row begins in ``x``, and how far rows and columns are from the next.
        target: where it begins in ``y``.
        sizes: rows and columns.
        factor: of all elements.
        lanes: of a vector.
    """
    start, stride, step = source
    rows, columns = sizes
    with T.serial(0, rows) as r:
        read, written = emit.bind(start + r * stride), emit.bind(target + r * columns)

        def piece(c: Expr, n: int) -> None:
            index = read + c * step
            value = emit.load(x, index, n) if step == 1 or n == 1 else x[T.ramp(index, step, n)]
            emit.store(y, written + c, value * emit.splat(factor, n), n)

        emit.sweep(columns, lanes, piece)


def pack_panels(
    x: Expr, y: Expr, source: tuple[Expr, int], sizes: tuple[Expr, int], panel: tuple[int, int], lanes: int
) -> None:
    """Rows cut into panels of columns, each panel's rows one after the other: ``y[panel][row][column]``.

    The last panel is moved back to end with the columns.

    Args:
        x, y: buffers.
        source: where the first row begins in ``x``, and how far a row is from the next.
        sizes: rows and columns.
        panel: the columns of one, and how many elements it is from the next.
        lanes: of a vector.
    """
    (start, stride), (rows, columns), (width, pitch) = source, sizes, panel
    starts = [min(at, max(0, columns - width)) for at in range(0, columns, width)]
    with T.serial(0, rows) as r:
        read = emit.bind(start + r * stride)
        for number, first in enumerate(starts):
            for at, n in emit.chunks(min(width, columns), lanes):
                emit.store(y, number * pitch + r * width + at, emit.load(x, read + first + at, n), n)


def pack_transposed(
    x: Expr, y: Expr, source: tuple[Expr, int, int], sizes: tuple[Expr, int], panel: int, lanes: int
) -> None:
    """Rows as columns of panels: ``y[panel][column][row]``.

    Past the last row panels hold anything.

    Args:
        x, y: buffers.
        source: where the first row begins in ``x``, and how far rows and columns are from the next; one of both is 1.
        sizes: rows and columns.
        panel: rows of one, a multiple of ``lanes``.
        lanes: of a vector.
    """
    start, stride, step = source
    rows, columns = sizes
    if step == 1:
        _transpose(x, y, (start, stride), sizes, panel, lanes)
        return
    whole = rows // panel if isinstance(rows, int) else emit.bind(rows // panel)
    left = emit.bind(rows - whole * panel)
    with T.serial(0, whole) as number, T.serial(0, columns) as c:
        read, written = emit.bind(start + number * panel + c * step), emit.bind((number * columns + c) * panel)
        for at in range(0, panel, lanes):
            emit.store(y, written + at, emit.load(x, read + at, lanes), lanes)
    with T.serial(0, columns) as c, T.serial(0, left) as r:
        emit.store(y, (whole * columns + c) * panel + r, x[start + whole * panel + r + c * step])


def _transpose(x: Expr, y: Expr, source: tuple[Expr, int], sizes: tuple[Expr, int], panel: int, lanes: int) -> None:
    (start, stride), (rows, columns) = source, sizes
    with T.serial(0, emit.ceil_div(rows, lanes)) as group:
        first = emit.bind(group * lanes)
        written = emit.bind(first // panel * (panel * columns) + first % panel)
        # Past the last row it is read again.
        read = [emit.bind(start + emit.minimum(first + r, rows - 1) * stride) for r in range(lanes)]

        def square(column: Expr, n: int) -> None:
            values = [T.bind(emit.load(x, at + column, n)) for at in read]
            place = emit.bind(written + column * panel)
            if n == lanes:
                for c, vector in enumerate(emit.transposed(values)):
                    emit.store(y, place + c * panel, vector, lanes)
            else:
                for r, vector in enumerate(values):
                    emit.store(y, place + r, vector, n, stride=panel)

        emit.sweep(columns, lanes, square)
