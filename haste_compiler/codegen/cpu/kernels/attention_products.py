"""The two products of attention, of what a task packs; here in float32."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import exp2
from haste_compiler.codegen.cpu.kernels.attention_packing import pack_panels, pack_rows, pack_transposed
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, AttentionTiling
from haste_compiler.codegen.cpu.kernels.matmul import product_pieces, tile_sums
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST, Expr

Vectors = list[list[Expr]]
"""Of every row of a tile."""


class Products(ABC):
    """What a task packs of an attention, and the products of it.

    Args:
        sizes: of the tensors.
        tiling: how they are cut.
        lanes: of a vector.
    """

    def __init__(self, sizes: AttentionSizes, tiling: AttentionTiling, lanes: int) -> None:
        self.sizes, self.tiling, self.lanes = sizes, tiling, lanes
        self.panel = tiling.score_vectors * lanes
        self.pitch = math.ceil(tiling.keys / self.panel) * self.panel
        self.groups, self.group, self.pieces = product_pieces(sizes.features, tiling.value_vectors, lanes)

    @property
    def takes_blocks(self) -> bool:
        """Whether values are weighted a whole block at a time, though a tile may see fewer of its keys."""
        return False

    @abstractmethod
    def allocate(self) -> None:
        """Allocate a task's memory: rows of scores, and what is packed."""

    @abstractmethod
    def pack_query(self, x: Expr, source: tuple[Expr, int, int], slot: Expr, scale: float) -> None:
        """Pack a tile's queries.

        Args:
            x: what holds them.
            source: where the first begins, and how far rows and columns are from the next.
            slot: the tile's number in the task.
            scale: what scores are multiplied by.
        """

    @abstractmethod
    def pack_keys(self, x: Expr, source: tuple[Expr, int, int], count: Expr) -> None:
        """Pack so many keys of a block; one of rows and columns lies without a gap."""

    @abstractmethod
    def pack_values(self, x: Expr, source: tuple[Expr, int], count: Expr) -> None:
        """Pack so many values of a block; rows lie so far from the next."""

    @abstractmethod
    def scores(self, slot: Expr, panel: Expr) -> Vectors:
        """The scores of a tile's queries and a panel's keys."""

    @abstractmethod
    def keep(self, row: int, column: Expr, score: Expr) -> None:
        """Keep a vector of a row's scores."""

    @abstractmethod
    def weigh(self, row: Expr, panels: Expr) -> tuple[Expr, Expr]:
        """Make powers of two of a row's scores less the largest of them.

        Returns:
            The largest, and the sum of the powers.
        """

    @abstractmethod
    def weighted(self, group: Expr, count: Expr) -> Vectors:
        """Values of a group of features, weighted by the powers of so many keys and summed."""


class FloatProducts(Products):
    """In float32."""

    def allocate(self) -> None:
        """See ``Products``."""
        sizes, tiling = self.sizes, self.tiling
        self._queries = T.alloc_buffer((tiling.tiles * tiling.rows * sizes.width,), FLOAT32.dtype)
        self._keys = T.alloc_buffer((self.pitch * sizes.width,), FLOAT32.dtype)
        self._values = T.alloc_buffer((self.groups * tiling.keys * self.group,), FLOAT32.dtype)
        self._scores = T.alloc_buffer((tiling.rows * self.pitch,), FLOAT32.dtype)

    def pack_query(self, x: Expr, source: tuple[Expr, int, int], slot: Expr, scale: float) -> None:
        """See ``Products``."""
        rows, width = self.tiling.rows, self.sizes.width
        pack_rows(x, self._queries, source, emit.bind(slot * (rows * width)), (rows, width), scale, self.lanes)

    def pack_keys(self, x: Expr, source: tuple[Expr, int, int], count: Expr) -> None:
        """See ``Products``."""
        pack_transposed(x, self._keys, source, (count, self.sizes.width), self.panel, self.lanes)

    def pack_values(self, x: Expr, source: tuple[Expr, int], count: Expr) -> None:
        """See ``Products``."""
        panel = (self.group, self.tiling.keys * self.group)
        pack_panels(x, self._values, source, (count, self.sizes.features), panel, self.lanes)

    def scores(self, slot: Expr, panel: Expr) -> Vectors:
        """See ``Products``."""
        width, rows = self.sizes.width, self.tiling.rows
        left, right = emit.bind(slot * (rows * width)), emit.bind(panel * (width * self.panel))
        pieces = [(v * self.lanes, self.lanes) for v in range(self.tiling.score_vectors)]

        def factors(k: Expr) -> list[Expr]:
            return [emit.load(self._queries, left + r * width + k) for r in range(rows)]

        return tile_sums(width, rows, pieces, factors, lambda k: (self._keys, right + k * self.panel))

    def keep(self, row: int, column: Expr, score: Expr) -> None:
        """See ``Products``."""
        emit.store(self._scores, row * self.pitch + column, score, self.lanes)

    def weigh(self, row: Expr, panels: Expr) -> tuple[Expr, Expr]:
        """See ``Products``."""
        start, lanes, vectors = emit.bind(row * self.pitch), self.lanes, range(self.tiling.score_vectors)
        largest = largest_of(self._scores, start, panels, self.tiling.score_vectors, lanes)
        totals = [emit.Register(lanes, 0.0) for _ in vectors]
        with T.serial(0, panels) as panel:
            for v, total in zip(vectors, totals, strict=True):
                at = emit.bind(start + panel * self.panel + v * lanes)
                power = emit.Register(
                    lanes, exp2(emit.load(self._scores, at, lanes) - emit.splat(largest, lanes), lanes)
                )
                emit.store(self._scores, at, power.get(), lanes)
                total.add(power.get())
        for other in totals[1:]:
            totals[0].add(other.get())
        return largest, T.bind(totals[0].total())

    def weighted(self, group: Expr, count: Expr) -> Vectors:
        """See ``Products``."""
        right = emit.bind(group * (self.tiling.keys * self.group))

        def factors(k: Expr) -> list[Expr]:
            return [self._scores[r * self.pitch + k] for r in range(self.tiling.rows)]

        return tile_sums(
            count, self.tiling.rows, self.pieces, factors, lambda k: (self._values, right + k * self.group)
        )


def largest_of(scores: Expr, start: Expr, panels: Expr, vectors: int, lanes: int) -> Expr:
    """The largest of a row of scores, the least finite number at least."""
    found = [emit.Register(lanes, -LARGEST) for _ in range(vectors)]
    with T.serial(0, panels) as panel:
        for v, register in enumerate(found):
            at = start + panel * (vectors * lanes) + v * lanes
            register.set(tirx.Max(register.get(), emit.load(scores, at, lanes)))
    for other in found[1:]:
        found[0].set(tirx.Max(found[0].get(), other.get()))
    return T.bind(found[0].fold(tirx.Max))
