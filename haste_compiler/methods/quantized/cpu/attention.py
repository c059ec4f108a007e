"""The two products of attention in integers of 8 bits."""

from __future__ import annotations

import math
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import exp2
from haste_compiler.codegen.cpu.kernels.attention_packing import pack_rows
from haste_compiler.codegen.cpu.kernels.attention_products import Products, Vectors, largest_of
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, AttentionTiling
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.cpu.rounding import Largest, is_finite, rounded, rounded_groups, scaling
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit
from haste_compiler.methods.quantized.reference.attention import block_of
from haste_compiler.methods.quantized.reference.rounding import UNSIGNED, most


def choose_blocks(sizes: AttentionSizes, tiling: AttentionTiling) -> AttentionTiling:
    """A tiling with the blocks of keys that ``reference.attention`` says."""
    keys = block_of(sizes.keys)
    return replace(tiling, keys=keys, blocks=math.ceil(sizes.keys / keys))


_LIMIT = most(BITS, nonnegative=False)
"""The largest integer."""

_NOT_FINITE = math.nan
"""The scale of what isn't all finite: whatever reads it becomes NaN."""


class IntegerProducts(Products):
    """In integers: queries, keys and weights by row, values by feature and block of keys.

    Args:
        sizes: of the tensors.
        tiling: how they are cut; its blocks of keys are those of ``reference.attention``.
        unit: what multiplies.
    """

    def __init__(self, sizes: AttentionSizes, tiling: AttentionTiling, unit: IntegerUnit) -> None:
        super().__init__(sizes, tiling, unit.lanes)
        self.unit, group = unit, unit.GROUP
        self.packed = "int8" if unit.ACCUMULATES else "int16"
        self.steps = math.ceil(sizes.width / group)
        self.columns = math.ceil(sizes.width / self.lanes) * self.lanes
        self.pairs = math.ceil(tiling.keys / group)

    @property
    def takes_blocks(self) -> bool:
        """See ``Products``: what sums start with is that of a block."""
        return self.unit.offset(True) != 0

    def allocate(self) -> None:
        """See ``Products``."""
        rows, slots, group = self.tiling.rows, self.tiling.tiles * self.tiling.rows, self.unit.GROUP
        vectors = len(self.pieces)
        self._queries = T.alloc_buffer((slots * self.columns,), self.unit.DTYPE)
        self._query_scales = T.alloc_buffer((slots,), FLOAT32.dtype)
        self._keys = T.alloc_buffer((self.pitch * self.columns,), self.packed)
        self._key_scales = T.alloc_buffer((self.pitch,), FLOAT32.dtype)
        self._key_starts = T.alloc_buffer((self.pitch,), "int32")
        self._values = T.alloc_buffer((self.groups * self.pairs * vectors * self.lanes * group,), self.packed)
        self._value_scales = T.alloc_buffer((self.groups * vectors * self.lanes,), FLOAT32.dtype)
        self._value_starts = T.alloc_buffer((self.groups * vectors * self.lanes,), "int32")
        self._scores = T.alloc_buffer((rows * self.pitch,), FLOAT32.dtype)
        self._weights = T.alloc_buffer((rows * self.pitch,), self.unit.DTYPE)
        self._rows = T.alloc_buffer((self.lanes * self.columns,), FLOAT32.dtype)

    def pack_query(self, x: Expr, source: tuple[Expr, int, int], slot: Expr, scale: float) -> None:
        """See ``Products``."""
        start, stride, step = source
        offset = self.unit.offset(False)
        with T.serial(0, self.tiling.rows) as r:
            index = emit.bind(slot * self.tiling.rows + r)
            self._copy(x, (start + r * stride, stride, step), 1)
            bits = self._largest(0)
            factor, own = scaling(bits, _LIMIT)
            known = tirx.Select(is_finite(bits), own * T.float32(scale), T.float32(_NOT_FINITE))
            emit.store(self._query_scales, index, known)

            def write(c: Expr, n: int, index: Expr = index, factor: Expr = factor) -> None:
                integers = rounded(emit.load(self._rows, c, n), factor, offset, n, self.unit.DTYPE)
                emit.store(self._queries, index * self.columns + c, integers, n)

            emit.sweep(self.columns, self.lanes, write)

    def pack_keys(self, x: Expr, source: tuple[Expr, int, int], count: Expr) -> None:
        """See ``Products``."""
        start, stride, step = source
        lanes, group, width = self.lanes, self.unit.GROUP, self.panel
        factors = T.alloc_buffer((lanes,), FLOAT32.dtype)
        with T.serial(0, emit.ceil_div(count, lanes)) as number:
            first = emit.bind(number * lanes)
            # Past the last key nothing is read: what is there is of the keys before.
            there = emit.bind(emit.minimum(lanes, count - first))
            self._copy(x, (start + first * stride, stride, step), there)
            with T.serial(0, lanes) as r:
                bits = self._largest(r * self.columns)
                factor, scale = scaling(bits, _LIMIT)
                emit.store(factors, r, factor)
                emit.store(self._key_scales, first + r, tirx.Select(is_finite(bits), scale, T.float32(_NOT_FINITE)))
            factor = T.bind(emit.load(factors, 0, lanes))
            panel = emit.bind(first // width * (width * self.columns) + first % width * group)
            sums = emit.Register(lanes, T.broadcast(T.int32(0), lanes), "int32")
            with T.serial(0, self.columns // lanes) as square:
                rows = [T.bind(emit.load(self._rows, r * self.columns + square * lanes, lanes)) for r in range(lanes)]
                columns = emit.transposed(rows)
                for at in range(0, lanes, group):
                    several = columns[at : at + group]
                    integers = rounded_groups(several, factor, 0, lanes, self.packed)
                    place = panel + (square * (lanes // group) + at // group) * (width * group)
                    emit.store(self._keys, place, integers, lanes * group)
                    self._sum(sums, several, factor)
            emit.store(self._key_starts, first, self._start(sums, nonnegative=False), lanes)

    def pack_values(self, x: Expr, source: tuple[Expr, int], count: Expr) -> None:
        """See ``Products``."""
        start, stride = source
        features, lanes, group = self.sizes.features, self.lanes, self.unit.GROUP
        each = self.pairs * len(self.pieces) * lanes * group
        for g in range(self.groups):
            column = min(g * self.group, max(0, features - self.group))
            for p, (at, n) in enumerate(self.pieces):
                read, place = emit.bind(start + column + at), (g * len(self.pieces) + p) * lanes
                largest = Largest(n)
                with T.serial(0, count) as k:
                    largest.include(emit.load(x, read + k * stride, n), n)
                bits = emit.Register(n, largest.lanes(), "int32").get()
                factor, scale = scaling(bits, _LIMIT, n)
                factor = emit.Register(n, factor).get()
                finite = is_finite(bits, n)
                emit.store(
                    self._value_scales,
                    place,
                    tirx.Select(finite, scale * emit.splat(1 / UNSIGNED, n), emit.splat(_NOT_FINITE, n)),
                    n,
                )
                sums = emit.Register(n, T.broadcast(T.int32(0), n) if n > 1 else T.int32(0), "int32")
                with T.serial(0, emit.ceil_div(count, group)) as pair:
                    # Past the last key it is read again: its weight there is nothing.
                    rows = [emit.bind(emit.minimum(pair * group + i, count - 1)) for i in range(group)]
                    several = [emit.Register(n, emit.load(x, read + row * stride, n)).get() for row in rows]
                    integers = rounded_groups(several, factor, 0, n, self.packed)
                    target = g * each + pair * (len(self.pieces) * lanes * group) + p * lanes * group
                    emit.store(self._values, target, integers, n * group)
                    self._sum(sums, several, factor, n)
                emit.store(self._value_starts, place, self._start(sums, nonnegative=True, n=n), n)

    def scores(self, slot: Expr, panel: Expr) -> Vectors:
        """See ``Products``."""
        rows, lanes = self.tiling.rows, self.lanes
        first = emit.bind(panel * self.panel)
        pieces = [(v * lanes, lanes) for v in range(self.tiling.score_vectors)]
        starts = [emit.load(self._key_starts, first + at, n) for at, n in pieces]
        left = emit.bind(slot * (rows * self.columns))
        places = [left + r * self.columns for r in range(rows)]
        sums = self._product(self.steps, self._queries, places, (self._keys, first * self.columns, self.panel), starts)
        scales = [emit.Register(n, emit.load(self._key_scales, first + at, n)).get() for at, n in pieces]
        found = []
        for r, registers in enumerate(sums):
            own = T.bind(self._query_scales[slot * rows + r])
            found.append(
                [
                    T.Cast(f"float32x{lanes}", register.get()) * (scale * emit.splat(own, lanes))
                    for register, scale in zip(registers, scales, strict=True)
                ]
            )
        return found

    def keep(self, row: int, column: Expr, score: Expr) -> None:
        """See ``Products``."""
        emit.store(self._scores, row * self.pitch + column, score, self.lanes)

    def weigh(self, row: Expr, panels: Expr) -> tuple[Expr, Expr]:
        """See ``Products``: powers are rounded to 255ths."""
        start, lanes, vectors = emit.bind(row * self.pitch), self.lanes, range(self.tiling.score_vectors)
        largest = largest_of(self._scores, start, panels, self.tiling.score_vectors, lanes)
        totals = [emit.Register(lanes, 0.0) for _ in vectors]
        offset = self.unit.offset(True)
        with T.serial(0, panels) as panel:
            for v, total in zip(vectors, totals, strict=True):
                at = emit.bind(start + panel * self.panel + v * lanes)
                score = emit.load(self._scores, at, lanes) - emit.splat(largest, lanes)
                power = emit.Register(lanes, exp2(score, lanes)).get()
                integers = rounded(power, T.float32(UNSIGNED), offset, lanes, self.unit.DTYPE)
                emit.store(self._weights, at, integers, lanes)
                total.add(power)
        for other in totals[1:]:
            totals[0].add(other.get())
        return largest, T.bind(totals[0].total())

    def weighted(self, group: Expr, count: Expr) -> Vectors:
        """See ``Products``."""
        rows, lanes, vectors = self.tiling.rows, self.lanes, len(self.pieces)
        first = emit.bind(group * (vectors * lanes))
        starts = [emit.load(self._value_starts, first + p * lanes, lanes) for p in range(vectors)]
        each = self.pairs * vectors * lanes * self.unit.GROUP
        packed = (self._values, emit.bind(group * each), vectors * lanes)
        places = [r * self.pitch for r in range(rows)]
        sums = self._product(emit.ceil_div(count, self.unit.GROUP), self._weights, places, packed, starts)
        scales = [
            emit.Register(n, emit.load(self._value_scales, first + p * lanes, n)).get()
            for p, (_, n) in enumerate(self.pieces)
        ]
        return [
            [
                T.Cast(_floats(n), register.get(n)) * scale
                for register, scale, (_, n) in zip(registers, scales, self.pieces, strict=True)
            ]
            for registers in sums
        ]

    def _product(
        self, steps: Expr, values: Expr, places: list[Expr], packed: tuple[Expr, Expr, int], starts: list[Expr]
    ) -> list[list[emit.Register]]:
        """Sums, by rows and vectors, of so many groups of values times packed ones, from what they start with."""
        unit, lanes = self.unit, self.lanes
        buffer, first, width = packed
        sums = [[emit.Register(lanes, start, "int32") for start in starts] for _ in places]
        with T.serial(0, steps) as step:
            at = emit.bind(first + step * (width * unit.GROUP))
            vectors = [unit.filters_of(buffer, at + v * (lanes * unit.GROUP)) for v in range(len(starts))]
            for registers, place in zip(sums, places, strict=True):
                value = unit.values_of(values, place + step * unit.GROUP)
                for register, vector in zip(registers, vectors, strict=True):
                    unit.add(register, value, vector)
        return sums

    def _copy(self, x: Expr, source: tuple[Expr, int, int], rows: Expr) -> None:
        """Copy rows side by side, with zeros behind each."""
        start, stride, step = source
        width = self.sizes.width
        with T.serial(0, rows) as r:
            place = emit.bind(r * self.columns)
            pack_rows(x, self._rows, (emit.bind(start + r * stride), stride, step), place, (1, width), 1.0, self.lanes)
            for at, n in emit.chunks(self.columns - width, self.lanes):
                emit.store(self._rows, place + width + at, emit.splat(0.0, n), n)

    def _largest(self, start: Expr) -> Expr:
        """The bits of the largest of a copied row."""
        largest = Largest(self.lanes)
        emit.sweep(self.columns, self.lanes, lambda c, n: largest.include(emit.load(self._rows, start + c, n), n))
        return largest.bits()

    def _sum(self, sums: emit.Register, values: list[Expr], factor: Expr, n: int = 0) -> None:
        """Add what values are rounded to, where sums of products start with it."""
        if not (self.unit.offset(False) or self.unit.offset(True)):
            return
        n = n or self.lanes
        for value in values:
            sums.add(T.Cast("int32" if n == 1 else f"int32x{n}", rounded(value, factor, 0, n, "int8")))

    def _start(self, sums: emit.Register, *, nonnegative: bool, n: int = 0) -> Expr:
        """What makes up for the offset of values in memory."""
        return sums.get() * emit.splat(T.int32(-self.unit.offset(nonnegative)), n or self.lanes)


def _floats(n: int) -> str:
    return "float32" if n == 1 else f"float32x{n}"
