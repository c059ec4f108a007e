"""The destination that is most similar to each source; of all cosines only the largest so far are kept."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.attention_packing import pack_transposed
from haste_compiler.codegen.cpu.kernels.matmul import MatmulTile, cycles_of, fitting_tiles, tile_sums
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, fold, matrices_of, places_of
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST, Expr
from haste_compiler.methods.tokens.cpu.cut import Cut
from haste_compiler.methods.tokens.reference.similarity import LEAST_NORM

_CHUNK_VALUES = 3 << 11
"""Values of the destinations that are packed at a time: they stay in a first-level cache, with a tile of sources."""


@dataclass(frozen=True)
class NearestSizes:
    """What the kernel is written for.

    Attributes:
        leading: of the tensor, before tokens and features; the first may be a ``DynamicBatch``.
        tokens: of each matrix.
        width: features of a token.
        most: sources of the largest task, and destinations of the largest block.
        blocks: how many there are.
        tasks: how many there are.
    """

    leading: tuple[Any, ...]
    tokens: int
    width: int
    most: tuple[int, int]
    blocks: int
    tasks: int

    @classmethod
    def of(cls, leading: Sequence[Any], width: int, cut: Cut) -> NearestSizes:
        """Of matrices that are cut so."""
        most = (cut.most_sources, cut.most_destinations)
        return cls(tuple(leading), len(cut.order), width, most, len(cut.blocks), len(cut.tasks))


def nearest_kernel(name: str, sizes: NearestSizes, x: Operand, unit: VectorUnit) -> tirx.PrimFunc:
    """The kernel (x, order, tasks, nearest, score): ``reference.similarity.most_similar`` of each task's sources.

    Tables are those of a ``Cut``. For each token ``nearest`` is the place in ``order`` of what it would go to, its own
    for all but sources. ``score`` is the cosine, the least finite number where that is none, and minus infinity for
    all but sources.

    Args:
        name: its symbol.
        sizes: of the tensors.
        x: where the tensor (*leading, tokens, width) lies, columns without a gap.
        unit: the target's vector unit.
    """

    def body(*buffers: Expr) -> None:
        with T.parallel(0, matrices_of(sizes.leading) * sizes.tasks) as number:
            _Task(sizes, x, unit, buffers, number).run()

    out = (*sizes.leading, sizes.tokens)
    arguments = [
        ("x", x.shape, FLOAT32.dtype),
        ("order", (sizes.tokens,), "int32"),
        ("tasks", (sizes.tasks, 6), "int32"),
        ("nearest", out, "int32"),
        ("score", out, FLOAT32.dtype),
    ]
    return emit.kernel(name, arguments, body)


class _Task:
    """Writes the code of one task: some sources of a block, and all of its destinations in chunks."""

    def __init__(
        self, sizes: NearestSizes, x: Operand, unit: VectorUnit, buffers: Sequence[Expr], number: Expr
    ) -> None:
        self.sizes, self.lanes = sizes, unit.lanes
        self.x, self.order, tasks, self.nearest, self.score = buffers
        self.matrix = emit.bind(number // sizes.tasks)
        self.stride = x.strides[-2]
        self.at = emit.bind(x.at(places_of(sizes.leading, self.matrix)))
        task = emit.bind(number % sizes.tasks * 6)
        first, last, begin, end, own, own_end = (emit.bind(tasks[task + column]) for column in range(6))
        self.destinations, self.sources, self.own = (first, last), (begin, end), (own, own_end)
        self.count = emit.bind(end - begin)
        most_sources, most_destinations = sizes.most
        self.tile = _choose_tile(most_sources, most_destinations, unit)
        self.panel = self.tile.vectors * unit.lanes
        panels = max(1, min(_CHUNK_VALUES // sizes.width, most_destinations) // self.panel)
        self.chunk = panels * self.panel
        self.rows = math.ceil(max(most_sources, 1) / self.tile.rows) * self.tile.rows

    def run(self) -> None:
        """Pack sources, and hold them against one chunk of destinations after the other."""
        sizes, lanes, rows = self.sizes, self.lanes, self.tile.rows
        self._write_own()
        width = sizes.width
        self.packed = T.alloc_buffer((self.rows * width,), FLOAT32.dtype)
        self.gathered = T.alloc_buffer((self.chunk * width,), FLOAT32.dtype)
        self.panels = T.alloc_buffer((self.chunk * width,), FLOAT32.dtype)
        self.largest = T.alloc_buffer((self.rows * lanes,), FLOAT32.dtype)
        self.steps = T.alloc_buffer((self.rows * lanes,), "int32")
        self._gather(self.packed, self.sources[0], self.count)
        tiles = emit.ceil_div(self.count, rows)
        with T.serial(0, tiles * rows - self.count) as r:
            # What the last tile has beside sources.
            start = emit.bind((self.count + r) * width)
            emit.sweep(width, lanes, lambda at, n: emit.store(self.packed, start + at, emit.splat(0.0, n), n), UNROLL)
        with T.serial(0, tiles * rows) as r:
            emit.store(self.largest, r * lanes, emit.splat(-math.inf, lanes), lanes)
            emit.store(self.steps, r * lanes, emit.splat(T.int32(0), lanes), lanes)
        first, last = self.destinations
        there = emit.bind(last - first)
        with T.serial(0, tirx.Select(self.count > 0, emit.ceil_div(there, self.chunk), 0)) as chunk:
            start = emit.bind(chunk * self.chunk)
            count = emit.bind(emit.minimum(self.chunk, there - start))
            self._gather(self.gathered, first + start, count)
            pack_transposed(self.gathered, self.panels, (0, width, 1), (count, width), self.panel, lanes)
            with T.serial(0, tiles) as tile, T.serial(0, emit.ceil_div(count, self.panel)) as panel:
                self._hold(tile, panel, start, count)
        with T.serial(0, self.count) as r:
            self._write(r)

    def _write_own(self) -> None:
        """Tokens that go nowhere."""
        begin, end = self.own
        with T.serial(0, end - begin) as i:
            place = emit.bind(begin + i)
            token = emit.bind(self.matrix * self.sizes.tokens + self.order[place])
            emit.store(self.nearest, token, place)
            emit.store(self.score, token, T.float32(-math.inf))

    def _gather(self, y: Expr, first: Expr, count: Expr) -> None:
        """The directions of so many tokens of ``order``, one after the other."""
        width, lanes = self.sizes.width, self.lanes
        with T.serial(0, count) as r:
            read, written = emit.bind(self.at + self.order[first + r] * self.stride), emit.bind(r * width)

            def square(at: Expr, n: int, read: Expr = read) -> Expr:
                value = T.bind(emit.load(self.x, read + at, n))
                return value * value

            norm = T.sqrt(fold(width, lanes, square, operator.add, 0.0))
            # Not T.max: a norm that is no number stays that.
            share = T.bind(T.float32(1) / tirx.Select(norm < T.float32(LEAST_NORM), T.float32(LEAST_NORM), norm))

            def scaled(at: Expr, n: int, read: Expr = read, written: Expr = written, share: Expr = share) -> None:
                emit.store(y, written + at, emit.load(self.x, read + at, n) * emit.splat(share, n), n)

            emit.sweep(width, lanes, scaled, UNROLL)

    def _hold(self, tile: Expr, panel: Expr, start: Expr, count: Expr) -> None:
        """A tile of sources against a panel of destinations."""
        width, lanes, rows, vectors = self.sizes.width, self.lanes, self.tile.rows, self.tile.vectors
        left, right = emit.bind(tile * (rows * width)), emit.bind(panel * (width * self.panel))
        sums = tile_sums(
            width,
            rows,
            [(v * lanes, lanes) for v in range(vectors)],
            lambda k: [emit.load(self.packed, left + r * width + k) for r in range(rows)],
            lambda k: (self.panels, right + k * self.panel),
        )
        column = emit.bind(panel * self.panel)
        with T.If(column + self.panel > count):
            with T.Then():
                self._update(sums, tile, start, column, count)
            with T.Else():
                self._update(sums, tile, start, column, None)

    def _update(self, sums: list[list[Expr]], tile: Expr, start: Expr, column: Expr, count: Expr | None) -> None:
        """The largest cosines so far, lane by lane; of a panel that isn't full, ``count`` are in the chunk."""
        lanes = self.lanes
        step = emit.bind((start + column) // lanes)
        for r, row in enumerate(sums):
            at = emit.bind((tile * self.tile.rows + r) * lanes)
            largest, steps = emit.load(self.largest, at, lanes), emit.load(self.steps, at, lanes)
            for v, cosine in enumerate(row):
                if count is not None:
                    there = T.ramp(column + v * lanes, 1, lanes) < T.broadcast(count, lanes)
                    cosine = tirx.Select(there, cosine, emit.splat(-math.inf, lanes))
                cosine, largest = T.bind(cosine), T.bind(largest)
                # False where one of both is no number.
                better = cosine > largest
                steps = T.bind(tirx.Select(better, emit.splat(step + v, lanes), steps))
                largest = tirx.Select(better, cosine, largest)
            emit.store(self.largest, at, largest, lanes)
            emit.store(self.steps, at, steps, lanes)

    def _write(self, r: Expr) -> None:
        """The largest of a source's lanes; of equal ones the first destination."""
        largest, nearest = emit.Register(1, -math.inf), emit.Register(1, T.int32(self.sizes.tokens), "int32")
        # A loop of assignments: TVM takes minutes to simplify a chain of conditions.
        with T.serial(0, self.lanes) as lane:
            at = emit.bind(r * self.lanes + lane)
            cosine, place = T.bind(self.largest[at]), T.bind(self.steps[at] * self.lanes + lane)
            earlier = tirx.Select(cosine == largest.get(), tirx.Min(place, nearest.get()), nearest.get())
            nearest.set(tirx.Select(cosine > largest.get(), place, earlier))
            largest.set(tirx.Max(largest.get(), cosine))
        token = emit.bind(self.matrix * self.sizes.tokens + self.order[self.sources[0] + r])
        emit.store(self.nearest, token, self.destinations[0] + nearest.get())
        emit.store(self.score, token, tirx.Max(largest.get(), T.float32(-LARGEST)))


def _choose_tile(sources: int, destinations: int, unit: VectorUnit) -> MatmulTile:
    """The tile with the fewest cycles; of equal ones that with most vectors a row, each of which has one update."""
    rows, columns = max(1, sources), max(1, destinations)
    fits = fitting_tiles(rows, columns, unit)
    return min(fits, key=lambda tile: (cycles_of(tile, rows, columns, unit), -tile.vectors))
