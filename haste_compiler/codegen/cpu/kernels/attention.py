"""Attention that never holds all scores: blocks of keys one after the other, with a running maximum and sum.

The softmax is Milakov and Gimelshein's (Online normalizer calculation for softmax, 2018), the order of the loops that
of FlashAttention (Dao et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import exp2
from haste_compiler.codegen.cpu.kernels.attention_products import Products, Vectors
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes
from haste_compiler.codegen.cpu.kernels.rows import matrices_of, places_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST, Expr

_LOG2_E = math.log2(math.e)

_COUNTS = ("lengths", "query_lengths")

_UNROLL = 4
"""Vectors of a row of scores at a time."""


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
class Operands:
    """Where the tensors of an attention lie.

    Attributes:
        query: (*leading, queries, width).
        key: (*leading, keys, width), columns or rows without a gap.
        value: (*leading, keys, features), columns without a gap.
        out: (*leading, queries, features), columns without a gap.
        mask: (*leading, queries, keys), columns without a gap or repeated; None: there is none.
        lengths: (*leading, 1, 1), int32: how many of a matrix's keys there are; None: all.
        query_lengths: the same of its queries.
    """

    query: Operand
    key: Operand
    value: Operand
    out: Operand
    mask: Operand | None = None
    lengths: Operand | None = None
    query_lengths: Operand | None = None


def attention_kernel(
    name: str,
    sizes: AttentionSizes,
    operands: Operands,
    scale: float,
    products: Products,
    *,
    causal: bool = False,
) -> tirx.PrimFunc:
    """The kernel (query, key, value, mask, lengths if any, y): ``softmax(scale * query @ keyᵀ + mask) @ value``.

    A query whose mask leaves no key gets zeros, as in PyTorch. Keys past a matrix's length are not read. Past the
    queries that there are, anything is written.

    Args:
        name: its symbol.
        sizes: of the tensors.
        operands: where they lie.
        scale: of the scores.
        products: how the two products are computed, and how they are cut.
        causal: query i sees keys 0 to i only.
    """
    given = {label: operand for label, operand in vars(operands).items() if operand is not None}
    out = given.pop("out")
    arguments = [
        (label, operand.shape, "int32" if label in _COUNTS else FLOAT32.dtype) for label, operand in given.items()
    ]

    def body(*buffers: Expr) -> None:
        named = dict(zip([*given, "out"], buffers, strict=True))
        tasks = products.tiling.tasks
        with T.parallel(0, matrices_of(sizes.leading) * tasks) as task:
            _Task(sizes, operands, scale, products, causal, named, task).run()

    return emit.kernel(name, [*arguments, ("y", out.shape, FLOAT32.dtype)], body)


class _Task:
    """Writes the code of one task: some queries of a matrix, and all of its keys in blocks."""

    def __init__(
        self,
        sizes: AttentionSizes,
        operands: Operands,
        scale: float,
        products: Products,
        causal: bool,
        buffers: dict[str, Expr],
        task: Expr,
    ) -> None:
        self.sizes, self.operands, self.scale, self.products = sizes, operands, scale, products
        self.tiling, self.lanes, self.causal, self.buffers = products.tiling, products.lanes, causal, buffers
        tiling, rows = self.tiling, self.tiling.rows
        places = places_of(sizes.leading, emit.bind(task // tiling.tasks))
        self.at = {label: emit.bind(getattr(operands, label).at(places)) for label in buffers}
        first = emit.bind(task % tiling.tasks * tiling.tiles)
        self.first = emit.bind(first * rows)
        queries = self._there("query_lengths", sizes.queries)
        self.tiles = emit.bind(emit.minimum(tiling.tiles, emit.ceil_div(queries, rows) - first))
        self.limit = self._there("lengths", sizes.keys)
        self.online = tiling.blocks > 1 or self.limit is not sizes.keys or causal

    def _there(self, label: str, most: int) -> Expr:
        """How many there are of what there is room for."""
        if label not in self.buffers:
            return most
        return emit.bind(T.max(T.min(self.buffers[label][self.at[label]], most), 0))

    def run(self) -> None:
        """All tiles; none where a task is past the queries that there are."""
        if "query_lengths" not in self.buffers:
            self._run()
            return
        with T.If(self.tiles > 0), T.Then():
            self._run()

    def _run(self) -> None:
        """All blocks of keys; where there is more than one, sums are kept between them."""
        sizes, tiling, products = self.sizes, self.tiling, self.products
        products.allocate()
        slots = tiling.tiles * tiling.rows
        self.alpha, self.beta = (T.alloc_buffer((tiling.rows,), FLOAT32.dtype) for _ in range(2))
        with T.serial(0, self.tiles) as slot:
            *_, stride, step = self.operands.query.strides
            at = emit.bind(self.at["query"] + self._row(slot) * stride)
            products.pack_query(self.buffers["query"], (at, stride, step), slot, self.scale * _LOG2_E)
        if not self.online:
            self._block(0, sizes.keys)
            return
        # Groups of features overlap at the end, and so do vectors: each has sums of its own.
        self.pitch = products.groups * len(products.pieces) * self.lanes
        self.sums = T.alloc_buffer((slots * self.pitch,), FLOAT32.dtype)
        self.largest, self.totals = (T.alloc_buffer((slots,), FLOAT32.dtype) for _ in range(2))
        with T.serial(0, slots) as s:
            emit.store(self.largest, s, T.float32(-LARGEST))
            emit.store(self.totals, s, T.float32(0))
        emit.sweep(
            slots * self.pitch,
            self.lanes,
            lambda i, n: emit.store(self.sums, i, emit.splat(0.0, n), n),
            _UNROLL,
        )
        seen = self.limit
        if self.causal:
            last = emit.bind(self._row(self.tiles - 1) + tiling.rows)
            seen = emit.bind(emit.minimum(seen, last))
        with T.serial(0, emit.ceil_div(seen, tiling.keys)) as block:
            start = emit.bind(block * tiling.keys)
            self._block(start, emit.bind(emit.minimum(tiling.keys, self.limit - start)))
        with T.serial(0, self.tiles) as slot:
            self._write(slot)

    def _row(self, slot: Expr) -> Expr:
        """The first query of a tile; the last tile is moved back to end with the queries."""
        rows = self.tiling.rows
        return emit.bind(emit.minimum(self.first + slot * rows, self.sizes.queries - rows))

    def _block(self, start: Expr, count: Expr) -> None:
        """The keys from ``start`` on, for all tiles."""
        products = self.products
        key, value = self.operands.key, self.operands.value
        *_, stride, step = key.strides
        products.pack_keys(self.buffers["key"], (emit.bind(self.at["key"] + start * stride), stride, step), count)
        stride = value.strides[-2]
        products.pack_values(self.buffers["value"], (emit.bind(self.at["value"] + start * stride), stride), count)
        with T.serial(0, self.tiles) as slot:
            if not self.causal:
                self._tile(slot, start, count)
                return
            last = emit.bind(self._row(slot) + (self.tiling.rows - start))
            seen = count if products.takes_blocks else emit.bind(emit.minimum(count, last))
            with T.If(last > 0), T.Then():
                self._tile(slot, start, seen)

    def _tile(self, slot: Expr, start: Expr, count: Expr) -> None:
        """A tile's queries with the first ``count`` keys of a block."""
        products, rows = self.products, self.tiling.rows
        row = self._row(slot)
        panels = emit.ceil_div(count, products.panel)
        with T.serial(0, panels) as panel:
            self._panel(slot, row, start, panel, count)
        with T.serial(0, rows) as r:
            self._weigh(slot * rows + r, r, panels)
        with T.serial(0, products.groups) as group:
            self._sum(slot, row, group, count)

    def _panel(self, slot: Expr, row: Expr, start: Expr, panel: Expr, count: Expr) -> None:
        """The scores of a tile with a panel of keys."""
        products, width = self.products, self.products.panel
        scores = products.scores(slot, panel)
        column = emit.bind(panel * width)
        whole = isinstance(self.limit, int) and self.limit % width == 0 and self.tiling.keys % width == 0
        if whole and not self.causal:
            self._keep(scores, row, start, column, None)
            return
        # The first row of a tile sees the fewest keys.
        least = emit.bind(emit.minimum(count, row + (1 - start))) if self.causal else count
        with T.If(column + width > least):
            with T.Then():
                self._keep(scores, row, start, column, count)
            with T.Else():
                self._keep(scores, row, start, column, None)

    def _keep(self, scores: Vectors, row: Expr, start: Expr, column: Expr, count: Expr | None) -> None:
        """Add the mask and keep the scores; of a panel that has keys that aren't seen, ``count`` are in the block."""
        products, lanes = self.products, self.lanes
        mask = self.operands.mask
        copied = None
        if mask is not None and mask.strides[-1] and count is not None:
            copied = self._copied(row, start, column)
        for r, vectors in enumerate(scores):
            limit = count
            if count is not None and self.causal:
                limit = emit.bind(emit.minimum(count, row + (r + 1 - start)))
            for v, vector in enumerate(vectors):
                score, at = vector, v * lanes
                if copied is not None:
                    score += emit.load(copied, r * products.panel + at, lanes) * emit.splat(_LOG2_E, lanes)
                elif mask is not None:
                    *_, stride, each = mask.strides
                    place = self.at["mask"] + (row + r) * stride + (start + column + at) * each
                    added = emit.load(self.buffers["mask"], place, lanes if each else 1)
                    score += (added if each else emit.splat(added, lanes)) * emit.splat(_LOG2_E, lanes)
                if limit is not None:
                    number = T.ramp(column + at, 1, lanes)
                    score = tirx.Select(number < T.broadcast(limit, lanes), score, emit.splat(-math.inf, lanes))
                products.keep(r, column + at, score)

    def _copied(self, row: Expr, start: Expr, column: Expr) -> Expr:
        """What the mask has for a panel, nothing past the last key read."""
        rows, width = self.tiling.rows, self.products.panel
        assert self.operands.mask is not None
        copied = T.alloc_buffer((rows * width,), FLOAT32.dtype)
        first = emit.bind(start + column)
        with T.serial(0, rows) as r, T.serial(0, emit.minimum(width, self.sizes.keys - first)) as c:
            place = self.at["mask"] + (row + r) * self.operands.mask.strides[-2] + first + c
            emit.store(copied, r * width + c, self.buffers["mask"][place])
        return copied

    def _weigh(self, index: Expr, r: Expr, panels: Expr) -> None:
        """A row's powers; what earlier sums and this block's are to be multiplied by."""
        largest, total = self.products.weigh(r, panels)
        zero, one = T.float32(0), T.float32(1)
        if not self.online:
            emit.store(self.beta, r, tirx.Select(total == zero, zero, one / total))
            return
        before = T.bind(self.largest[index])
        difference = T.bind(largest - before)
        # One of the two stays as it is.
        smaller = emit.Register(1, exp2(tirx.Select(difference > zero, -difference, difference), 1)).get()
        alpha = T.bind(tirx.Select(difference > zero, smaller, one))
        beta = T.bind(tirx.Select(difference > zero, one, smaller))
        emit.store(self.largest, index, tirx.Max(largest, before))
        emit.store(self.totals, index, self.totals[index] * alpha + total * beta)
        emit.store(self.alpha, r, alpha)
        emit.store(self.beta, r, beta)

    def _sum(self, slot: Expr, row: Expr, group: Expr, count: Expr) -> None:
        """A group of features of a tile's weighted values: added to earlier sums, or written."""
        products, lanes = self.products, self.lanes
        for r, vectors in enumerate(products.weighted(group, count)):
            beta = T.bind(self.beta[r])
            if not self.online:
                place = emit.bind(self._written(row + r) + self._column(group))
                for (at, n), vector in zip(products.pieces, vectors, strict=True):
                    emit.store(self.buffers["out"], place + at, vector * emit.splat(beta, n), n)
                continue
            alpha = T.bind(self.alpha[r])
            place = emit.bind((slot * self.tiling.rows + r) * self.pitch + group * (len(products.pieces) * lanes))
            for number, ((_, n), vector) in enumerate(zip(products.pieces, vectors, strict=True)):
                earlier = emit.load(self.sums, place + number * lanes, n) * emit.splat(alpha, n)
                emit.store(self.sums, place + number * lanes, earlier + vector * emit.splat(beta, n), n)

    def _column(self, group: Expr) -> Expr:
        """The first feature of a group."""
        return emit.minimum(group * self.products.group, max(0, self.sizes.features - self.products.group))

    def _written(self, row: Expr) -> Expr:
        """Where a query's features are written."""
        return self.at["out"] + row * self.operands.out.strides[-2]

    def _write(self, slot: Expr) -> None:
        """A tile's sums, over those of its weights."""
        products, lanes, zero = self.products, self.lanes, T.float32(0)
        with T.serial(0, self.tiling.rows) as r:
            index = emit.bind(slot * self.tiling.rows + r)
            total = T.bind(self.totals[index])
            share = T.bind(tirx.Select(total == zero, zero, T.float32(1) / total))
            with T.serial(0, products.groups) as group:
                read = emit.bind(index * self.pitch + group * (len(products.pieces) * lanes))
                place = emit.bind(self._written(self._row(slot) + r) + self._column(group))
                for number, (at, n) in enumerate(products.pieces):
                    value = emit.load(self.sums, read + number * lanes, n) * emit.splat(share, n)
                    emit.store(self.buffers["out"], place + at, value, n)
