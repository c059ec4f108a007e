"""Products of two computed matrices, many at a time, as attention takes them: sums of a tile in registers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import matrices_of
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr

_TASK_MACS = 1 << 17


@dataclass(frozen=True)
class MatmulTile:
    """Rows and column vectors of a product that are summed in registers at a time."""

    rows: int
    vectors: int


def choose_tile(rows: int, columns: int, unit: VectorUnit) -> MatmulTile:
    """The tile that takes the fewest cycles for a product of ``rows`` × ``columns``, edges computed twice included."""
    fits = fitting_tiles(rows, columns, unit)
    return min(fits, key=lambda tile: (cycles_of(tile, rows, columns, unit), -tile.rows * tile.vectors))


def fitting_tiles(rows: int, columns: int, unit: VectorUnit) -> list[MatmulTile]:
    """The tiles of a product whose sums, a row of vectors and a factor fit into the registers."""
    vectors = math.ceil(columns / unit.lanes)
    return [
        MatmulTile(r, v)
        for v in range(1, min(vectors, 4) + 1)
        for r in range(1, min(rows, 24) + 1)
        if (r + 1) * v + 1 <= unit.registers
    ]


def cycles_of(tile: MatmulTile, rows: int, columns: int, unit: VectorUnit) -> float:
    """Cycles for each term of the sums of a product."""
    # Two products and two loads in a cycle; a product waits four cycles for the one before.
    each = max(tile.rows * tile.vectors / 2, (tile.rows + tile.vectors) / 2, 4)
    return math.ceil(rows / tile.rows) * math.ceil(math.ceil(columns / unit.lanes) / tile.vectors) * each


def product_pieces(columns: int, vectors: int, lanes: int) -> tuple[int, int, list[tuple[int, int]]]:
    """How a row of ``columns`` is covered by groups of vectors: how many groups, their width, (start, lanes) in each.

    The last group begins at ``columns - width``, or at zero if that is negative.
    """
    width = vectors * lanes
    groups = math.ceil(columns / width)
    if columns < lanes:
        return groups, width, emit.chunks(columns, lanes)
    # The last vector of the last group ends with the row; what it shares with the one before is the same twice.
    return groups, width, [(min(v * lanes, columns - lanes), lanes) for v in range(vectors)]


def tile_sums(
    terms: Expr,
    rows: int,
    pieces: Sequence[tuple[int, int]],
    factors: Callable[[Expr], Sequence[Expr]],
    vectors: Callable[[Expr], tuple[Expr, Expr]],
    accumulator: str = FLOAT32.dtype,
) -> list[list[Expr]]:
    """A tile of a product: by rows and pieces, sums of so many terms in registers.

    Args:
        terms: how many.
        rows: of the tile.
        pieces: (start, lanes) of the vectors in a row of the right matrix.
        factors: for a term, an element of each row.
        vectors: for a term, the buffer and where in it the row of the right matrix begins.
        accumulator: dtype of the sums.
    """
    sums = [[emit.Register(n, 0.0, accumulator) for _, n in pieces] for _ in range(rows)]
    with T.serial(0, terms) as k:
        buffer, at = vectors(k)
        row = [T.bind(emit.load(buffer, at + start, n)) for start, n in pieces]
        for registers, factor in zip(sums, factors(k), strict=True):
            named = T.bind(factor)
            for register, vector in zip(registers, row, strict=True):
                register.add(emit.splat(named, register.lanes) * vector)
    return [[register.get() for register in registers] for registers in sums]


def matmul_kernel(
    name: str, leading: Sequence[Any], rows: int, inner: int, columns: int, unit: VectorUnit, element: Element = FLOAT32
) -> tirx.PrimFunc:
    """The kernel (a, b, y): ``y = a @ b``, (..., rows, inner) by (..., inner, columns).

    Args:
        name: its symbol.
        leading: the sizes in front, the same for all three; the first may be a ``DynamicBatch``.
        rows, inner, columns: of each product.
        unit: the target's vector unit.
        element: of the matrices.
    """
    tile = choose_tile(rows, columns, unit)
    groups, width, pieces = product_pieces(columns, tile.vectors, unit.lanes)
    tiles = math.ceil(rows / tile.rows)
    block = max(1, min(tiles, _TASK_MACS // (tile.rows * inner * columns)))
    blocks = math.ceil(tiles / block)

    def body(a: Expr, b: Expr, y: Expr) -> None:
        with T.parallel(0, matrices_of(leading) * blocks) as task:
            matrix, first = emit.bind(task // blocks), emit.bind(task % blocks * block)
            with T.serial(0, groups) as group, T.serial(0, emit.minimum(block, tiles - first)) as step:
                column = emit.bind(emit.minimum(group * width, max(0, columns - width)))
                row = emit.bind(matrix * rows + emit.minimum((first + step) * tile.rows, rows - tile.rows))
                left, right = emit.bind(row * inner), emit.bind(matrix * inner * columns + column)
                sums = tile_sums(
                    inner,
                    tile.rows,
                    pieces,
                    lambda k: [emit.load(a, left + r * inner + k) for r in range(tile.rows)],
                    lambda k: (b, right + k * columns),
                    element.accumulator,
                )
                for r, vectors in enumerate(sums):
                    start = emit.bind((row + r) * columns + column)
                    for (at, n), vector in zip(pieces, vectors, strict=True):
                        emit.store(y, start + at, vector, n)

    shapes = [("a", (rows, inner)), ("b", (inner, columns)), ("y", (rows, columns))]
    return emit.kernel(name, [(label, (*leading, *size), element.dtype) for label, size in shapes], body)
