"""How attention is cut: rows and vectors in registers, queries of a task, keys of a block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.cpu.kernels.matmul import MatmulTile, cycles_of, fitting_tiles
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import DynamicBatch

KEYS = 128
"""The most keys of a block, where there are several."""

_WHOLE = 256
"""The most keys that are one block: then no sums wait for the next."""

_QUERIES = 256
"""The most queries of a task: so many that packing the keys takes little beside their products."""

_LOOP = 1.0
"""Cycles that a tile takes for a term besides its products, as tiles of 8 and 12 sums compare."""

_IDLE = 1.1
"""How much longer than its share a thread may work before matrices are cut into more tasks."""


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
class AttentionTiling:
    """How attention is cut.

    Attributes:
        rows: queries whose sums are in registers at a time.
        score_vectors: vectors of a query's scores that are.
        value_vectors: vectors of a query's features that are.
        keys: of a block; the last one may have fewer.
        blocks: of keys.
        tiles: of ``rows`` queries that a task has.
        tasks: that a matrix is cut into.
    """

    rows: int
    score_vectors: int
    value_vectors: int
    keys: int
    blocks: int
    tiles: int
    tasks: int


def choose_attention(sizes: AttentionSizes, unit: VectorUnit, threads: int) -> AttentionTiling:
    """The tiling with the fewest cycles in products, edges that are computed twice or for nothing included."""
    keys = sizes.keys if sizes.keys <= _WHOLE else KEYS
    rows, scores, values = _registers(sizes, keys, unit)
    if keys < sizes.keys:
        # Blocks as even as whole panels of keys are.
        panel = scores * unit.lanes
        keys = math.ceil(sizes.keys / math.ceil(sizes.keys / keys) / panel) * panel
    tiles = math.ceil(sizes.queries / rows)
    tasks = _tasks(sizes, tiles, rows, threads)
    return AttentionTiling(rows, scores, values, keys, math.ceil(sizes.keys / keys), math.ceil(tiles / tasks), tasks)


def _registers(sizes: AttentionSizes, keys: int, unit: VectorUnit) -> tuple[int, int, int]:
    """Queries of a tile, and the vectors of scores and of features that are summed in registers at a time."""

    def best(rows: int, columns: int) -> tuple[float, int]:
        """Cycles of a tile of so many rows for each element of its sums, and its vectors."""
        tiles = [tile for tile in fitting_tiles(rows, columns, unit) if tile.rows == rows and fits(tile)]
        vectors = math.ceil(columns / unit.lanes)
        return min(
            (cycles_of(tile, rows, columns, unit) + _LOOP * math.ceil(vectors / tile.vectors), -tile.vectors)
            for tile in tiles
        )

    def fits(tile: MatmulTile) -> bool:
        # One vector a row takes a factor for each product: twice the time, measured with 8 lanes.
        return tile.vectors > 1 or tile.rows <= most

    def cycles(rows: int) -> tuple[float, int]:
        each = best(rows, keys)[0] * sizes.width + best(rows, sizes.features)[0] * keys
        return math.ceil(sizes.queries / rows) * each, -rows

    most = max(tile.rows for tile in fitting_tiles(sizes.queries, 2 * unit.lanes, unit) if tile.vectors == 2)
    rows = min(range(1, most + 1), key=cycles)
    return rows, -best(rows, keys)[1], -best(rows, sizes.features)[1]


def _tasks(sizes: AttentionSizes, tiles: int, rows: int, threads: int) -> int:
    """Tasks of a matrix: more where that evens out what threads do."""
    matrices = math.prod(size.hint if isinstance(size, DynamicBatch) else size for size in sizes.leading)
    least = math.ceil(tiles / max(1, _QUERIES // rows))

    def share(tasks: int) -> float:
        """What the thread with the most tiles does, over an even share."""
        return math.ceil(matrices * tasks / threads) * math.ceil(tiles / tasks) * threads / (matrices * tiles)

    candidates = range(least, min(tiles, least + 2 * threads) + 1)
    return next((tasks for tasks in candidates if share(tasks) <= _IDLE), min(candidates, key=share))
