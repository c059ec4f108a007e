"""Attention: scores of a few queries at a time, which never leave the first cache levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.matmul import cycles_of, fitting_tiles, product_pieces
from haste_compiler.codegen.cpu.kernels.rows import fold, matrices_of
from haste_compiler.codegen.cpu.kernels.softmax import exponentials
from haste_compiler.codegen.cpu.kernels.transpose import transpose_rows
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST, Expr

_TASK_MACS = 1 << 21
"""Products of a task: so many that gathering the keys for it takes little beside them."""


@dataclass(frozen=True)
class Operand:
    """A tensor (*leading, rows, columns) that lies in another one's memory.

    Attributes:
        shape: of that memory, a ``DynamicBatch`` first or not.
        strides: from one element to the next along each axis of the tensor; zero where it is repeated.
        offset: of the first element.
    """

    shape: tuple[Any, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def at(self, places: Sequence[Expr]) -> Expr:
        """Where the matrix begins that lies at these places along the leading axes."""
        return sum(
            (place * stride for place, stride in zip(places, self.strides, strict=False) if stride), start=self.offset
        )


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of an attention.

    Attributes:
        leading: of all its tensors; the first may be a ``DynamicBatch``.
        queries, keys: how many for each.
        width: of a query and a key.
        features: of a value.
    """

    leading: tuple[Any, ...]
    queries: int
    keys: int
    width: int
    features: int


@dataclass(frozen=True)
class Operands:
    """Where the tensors of an attention lie.

    Attributes:
        query: (*leading, queries, width).
        key: (*leading, keys, width), columns or rows without a gap.
        value: (*leading, keys, features), columns without a gap.
        mask: (*leading, queries, keys), columns without a gap or repeated; None: there is none.
        out: (*leading, queries, features), columns without a gap.
    """

    query: Operand
    key: Operand
    value: Operand
    mask: Operand | None
    out: Operand


def attention_kernel(
    name: str, sizes: AttentionSizes, operands: Operands, scale: float, unit: VectorUnit
) -> tirx.PrimFunc:
    """The kernel (query, key, value, mask if there is one, y): ``softmax(scale * query @ keyᵀ + mask) @ value``.

    A query whose mask leaves no key gets zeros, as in PyTorch.

    Args:
        name: its symbol.
        sizes: of the tensors.
        operands: where they lie.
        scale: of the scores.
        unit: the target's vector unit.
    """
    work = _Attention(sizes, operands, scale, unit)
    named = {"query": operands.query, "key": operands.key, "value": operands.value, "mask": operands.mask}
    arguments = [(label, operand.shape, FLOAT32.dtype) for label, operand in named.items() if operand is not None]
    return emit.kernel(name, [*arguments, ("y", operands.out.shape, FLOAT32.dtype)], work.write)


class _Attention:
    def __init__(self, sizes: AttentionSizes, operands: Operands, scale: float, unit: VectorUnit) -> None:
        self.sizes, self.operands, self.scale, self.lanes = sizes, operands, scale, unit.lanes
        self.rows, self.score_vectors, self.value_vectors = _choose_tiles(sizes, unit)
        self.tiles = math.ceil(sizes.queries / self.rows)
        macs = self.rows * sizes.keys * (sizes.width + sizes.features)
        self.block = max(1, min(self.tiles, _TASK_MACS // macs))
        self.blocks = math.ceil(self.tiles / self.block)

    def write(self, query: Expr, key: Expr, value: Expr, *others: Expr) -> None:
        """All tasks, in parallel."""
        sizes, operands = self.sizes, self.operands
        *masks, y = others
        with T.parallel(0, matrices_of(sizes.leading) * self.blocks) as task:
            matrix, first = emit.bind(task // self.blocks), emit.bind(task % self.blocks * self.block)
            places = self._places(matrix)
            at = {
                label: emit.bind(operand.at(places)) for label, operand in vars(operands).items() if operand is not None
            }
            keys, key_at, key_stride = self._gathered(key, at["key"])
            scores = T.alloc_buffer((self.rows * sizes.keys,), FLOAT32.dtype)
            shares = T.alloc_buffer((self.rows,), FLOAT32.dtype)
            with T.serial(0, emit.minimum(self.block, self.tiles - first)) as step:
                row = emit.bind(emit.minimum((first + step) * self.rows, sizes.queries - self.rows))
                query_rows = emit.bind(at["query"] + row * operands.query.strides[-2])
                *_, query_stride, query_step = operands.query.strides

                def product(sums: list[list[emit.Register]], column: Expr, pieces: list[tuple[int, int]]) -> None:
                    with T.serial(0, sizes.width) as k:
                        left, right = emit.bind(query_rows + k * query_step), key_at + k * key_stride + column
                        vectors = [T.bind(emit.load(keys, right + start, n)) for start, n in pieces]
                        _multiply(sums, [emit.load(query, left + r * query_stride) for r in range(self.rows)], vectors)

                def keep(sums: list[list[emit.Register]], column: Expr, pieces: list[tuple[int, int]]) -> None:
                    for r, registers in enumerate(sums):
                        for (start, n), register in zip(pieces, registers, strict=True):
                            score = register.get() * emit.splat(float(self.scale), n)
                            if operands.mask is not None:
                                *_, stride, each = operands.mask.strides
                                place = at["mask"] + (row + r) * stride + (column + start) * each
                                score += emit.load(masks[0], place, n) if each else emit.splat(masks[0][place], n)
                            emit.store(scores, emit.bind(r * sizes.keys + column + start), score, n)

                self._each_group(sizes.keys, self.score_vectors, product, keep)
                with T.serial(0, self.rows) as r:
                    self._softmax(scores, emit.bind(r * sizes.keys), shares, r)

                def weighted(sums: list[list[emit.Register]], column: Expr, pieces: list[tuple[int, int]]) -> None:
                    with T.serial(0, sizes.keys) as k:
                        right = emit.bind(at["value"] + k * operands.value.strides[-2] + column)
                        vectors = [T.bind(emit.load(value, right + start, n)) for start, n in pieces]
                        _multiply(sums, [scores[r * sizes.keys + k] for r in range(self.rows)], vectors)

                def finish(sums: list[list[emit.Register]], column: Expr, pieces: list[tuple[int, int]]) -> None:
                    for r, registers in enumerate(sums):
                        place = emit.bind(at["out"] + (row + r) * operands.out.strides[-2] + column)
                        share = T.bind(shares[r])
                        for (start, n), register in zip(pieces, registers, strict=True):
                            emit.store(y, place + start, register.get() * emit.splat(share, n), n)

                self._each_group(sizes.features, self.value_vectors, weighted, finish)

    def _places(self, matrix: Expr) -> list[Expr]:
        """The places along the leading axes of a matrix by its number."""
        places: list[Expr] = []
        for size in reversed(self.sizes.leading[1:]):
            places.append(emit.bind(matrix % size))
            matrix = emit.bind(matrix // size)
        return [matrix, *reversed(places)]

    def _gathered(self, key: Expr, start: Expr) -> tuple[Expr, Expr, int]:
        """The keys of a matrix side by side: in which buffer, from where on, and how far one row is from the next."""
        *_, stride, step = self.operands.key.strides
        if stride == 1:
            return key, start, step
        sizes = self.sizes
        gathered = T.alloc_buffer((sizes.width * sizes.keys,), FLOAT32.dtype)
        transpose_rows(key, gathered, (start, stride), (0, sizes.keys), (sizes.keys, sizes.width), self.lanes)
        return gathered, 0, sizes.keys

    def _each_group(self, columns: int, vectors: int, product: Any, keep: Any) -> None:
        """Sum a tile of ``columns`` by groups of ``vectors``, and keep the sums."""
        groups, width, pieces = product_pieces(columns, vectors, self.lanes)
        with T.serial(0, groups) as group:
            column = emit.bind(emit.minimum(group * width, max(0, columns - width)))
            sums = [[emit.Register(n, 0.0) for _, n in pieces] for _ in range(self.rows)]
            product(sums, column, pieces)
            keep(sums, column, pieces)

    def _softmax(self, scores: Expr, start: Expr, shares: Expr, row: Expr) -> None:
        """Exponentials in place of a row's scores; in ``shares`` what they are to be multiplied by."""
        size, lanes = self.sizes.keys, self.lanes
        largest = fold(size, lanes, lambda at, n: emit.load(scores, start + at, n), tirx.Max, -LARGEST)
        total = exponentials((scores, start), (scores, start), size, largest, lanes)
        one, none = T.float32(1), T.float32(0)
        T.buffer_store(shares, tirx.Select(total == none, none, one / total), [row])


def _multiply(sums: list[list[emit.Register]], factors: list[Expr], vectors: list[Expr]) -> None:
    for registers, factor in zip(sums, factors, strict=True):
        named = T.bind(factor)
        for register, vector in zip(registers, vectors, strict=True):
            register.add(emit.splat(named, register.lanes) * vector)


def _choose_tiles(sizes: AttentionSizes, unit: VectorUnit) -> tuple[int, int, int]:
    """Queries of a tile, and the vectors of scores and of features that are summed in registers at a time."""

    def best(rows: int, columns: int) -> tuple[float, int]:
        """Cycles of a tile of so many rows for each element of its sums, and its vectors."""
        tiles = [tile for tile in fitting_tiles(rows, columns, unit) if tile.rows == rows]
        return min((cycles_of(tile, rows, columns, unit), -tile.vectors) for tile in tiles)

    def cycles(rows: int) -> tuple[float, int]:
        each = best(rows, sizes.keys)[0] * sizes.width + best(rows, sizes.features)[0] * sizes.keys
        return math.ceil(sizes.queries / rows) * each, -rows

    rows = min({tile.rows for tile in fitting_tiles(sizes.queries, unit.lanes, unit)}, key=cycles)
    return rows, -best(rows, sizes.keys)[1], -best(rows, sizes.features)[1]
