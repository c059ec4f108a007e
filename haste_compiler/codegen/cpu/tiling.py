"""Tile sizes from a model of the machine: registers, vector lanes, the second-level cache, threads.

A dense convolution runs at a core's peak once its accumulators stay in registers and no tile is wasted, so the model
counts cycles of one register tile, multiplies by the tiles (those that overhang the image too), and adds what copying
windows and reading filters costs. ``tune=True`` measures the best few instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.graph.geometry import ConvGeometry

L3_BYTES_PER_CYCLE = 12.0
L2_BYTES_PER_CYCLE = 32.0
MEMORY_BYTES_PER_CYCLE = 4.0
CROSS_BYTES_PER_CYCLE = 4.0
"""What another core's cache holds."""

COLD_BYTES_PER_CYCLE = 5.0
"""Filters that no cache holds when their layer begins."""

L3_SHARE_BYTES = 1 << 21
"""What a thread may count on of the third-level cache, which others read and write too."""

_SEEN = 0.5
"""Share of the time of reading the third-level cache that products don't hide."""

_CLOSE = 1.15
"""Register tiles whose sums take at most so many times the fewest cycles are tried with every block."""


@dataclass(frozen=True)
class RegisterTile:
    """Output pixels (``rows`` × ``columns``) times ``vectors`` of ``lanes`` output channels, summed in registers.

    ``element`` is what inputs and filters are made of, and says what sums are.
    """

    rows: int
    columns: int
    vectors: int
    lanes: int
    element: Element = FLOAT32

    @property
    def pixels(self) -> int:
        """Output pixels of the tile."""
        return self.rows * self.columns

    @property
    def channels(self) -> int:
        """Output channels of the tile."""
        return self.vectors * self.lanes

    def cycles(self) -> float:
        """Cycles for one input value of each pixel: two FMAs and two loads a cycle, four cycles latency."""
        fmas = self.pixels * self.vectors / 2
        loads = (self.pixels + self.vectors) / 2
        weights = self.channels * self.element.bytes / L2_BYTES_PER_CYCLE
        penalty = 1.08 if self.vectors == 1 else 1.0
        return max(fmas * penalty, loads, weights, 4.0) + 0.1


@dataclass(frozen=True)
class ConvTiling:
    """How a convolution is cut: register tiles, and the tasks that threads share.

    Attributes:
        tile: the register tile.
        block: output rows of one task (register tiles where the image is one flat row).
        channel_tiles: tiles of output channels of one task.
        channels_first: tasks that share filters follow each other, not tasks that share a window.
    """

    tile: RegisterTile
    block: int
    channel_tiles: int
    channels_first: bool


@dataclass(frozen=True)
class WinogradTiling:
    """How a 3×3 convolution is cut if Winograd's algorithm computes it.

    Attributes:
        size: m, the side of a tile of outputs.
        tile: the register tile of the matrix products: tiles (as columns) times output channels.
        block: rows of tiles of one task; divides the rows of tiles of all images.
        channel_tiles: register tiles of output channels of one task.
        direct: for inputs whose transforms are not finite.
    """

    size: int
    tile: RegisterTile
    block: int
    channel_tiles: int
    direct: ConvTiling

    def grid(self, geometry: ConvGeometry) -> tuple[int, int]:
        """Tiles down and across an image."""
        height, width = geometry.output_size
        return math.ceil(height / self.size), math.ceil(width / self.size)


def register_tiles(
    rows: int, columns: int, channels: int, unit: VectorUnit, element: Element = FLOAT32
) -> Iterator[RegisterTile]:
    """Every register tile that fits the registers, the image and the output channels."""
    lanes = min(unit.lanes, 1 << max(0, (channels - 1)).bit_length())
    most_vectors = 8 if rows * columns == 1 else 6
    for vectors in range(1, most_vectors + 1):
        if vectors > 1 and (vectors - 1) * lanes >= channels:
            break
        room = unit.registers - vectors - 2
        for tile_rows in (1, 2, 4):
            if rows % tile_rows:
                continue
            for tile_columns in range(1, columns + 1):
                if tile_rows * tile_columns * vectors > room:
                    break
                yield RegisterTile(tile_rows, tile_columns, vectors, lanes, element)


@dataclass(frozen=True)
class ConvWork:
    """What the tiling of a convolution depends on.

    Attributes:
        images, rows, columns: the output plane (one flat row of all pixels for a plain 1×1 convolution).
        channels: output channels of a conv group.
        groups: conv groups.
        depth: products summed for one output value (kh · kw · C / groups).
        window: for a number of output rows, the elements of the window they read.
        copies: windows are copied into a padded buffer first.
        element: of the images.
    """

    images: int
    rows: int
    columns: int
    channels: int
    groups: int
    depth: int
    window_rows: tuple[int, int]
    window_row_elements: int
    copies: bool
    flat: bool
    element: Element = FLOAT32

    def window(self, block: int) -> int:
        """Elements that ``block`` output rows read."""
        scale, base = self.window_rows
        return (block * scale + base) * self.window_row_elements


def tile_cost(work: ConvWork, tile: RegisterTile) -> float:
    """Modelled cycles of all register tiles of a convolution, those that overhang the image too."""
    tiles = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
    sums = tile.cycles() * work.depth + 3.0 * tile.pixels * tile.vectors
    return tiles * math.ceil(work.channels / tile.channels) * sums


def choose_tiling(work: ConvWork, unit: VectorUnit, threads: int, tile: RegisterTile | None = None) -> ConvTiling:
    """Register tile, block and order of tasks with the fewest modelled cycles."""
    return cheapest_tiling(work, unit, threads, tile)[1]


def cheapest_tiling(
    work: ConvWork, unit: VectorUnit, threads: int, tile: RegisterTile | None = None
) -> tuple[float, ConvTiling]:
    """The modelled cycles of the busiest thread, and the tiling that has the fewest."""
    if tile is not None:
        return _cheapest_with(work, unit, threads, tile)
    tiles = register_tiles(work.rows, work.columns, work.channels, unit, work.element)
    costs = {tile: tile_cost(work, tile) for tile in tiles}
    close = [tile for tile, cost in costs.items() if cost <= _CLOSE * min(costs.values())]
    return min((_cheapest_with(work, unit, threads, tile) for tile in close), key=lambda each: each[0])


def _cheapest_with(work: ConvWork, unit: VectorUnit, threads: int, tile: RegisterTile) -> tuple[float, ConvTiling]:
    channel_tiles = work.groups * math.ceil(work.channels / tile.channels)
    per_row = math.ceil(work.columns / tile.columns)
    rows = math.ceil(work.columns / tile.columns) if work.flat else work.rows
    tile_cycles = tile.cycles() * work.depth + 3.0 * tile.pixels * tile.vectors
    slice_bytes = work.depth * tile.channels * tile.element.bytes
    output_bytes = float(work.element.bytes) * work.images * work.rows * work.columns * work.channels * work.groups
    best: tuple[float, ConvTiling] | None = None
    for block in block_sizes(rows, 1 if work.flat else tile.rows):
        elements = block * tile.columns * work.window_row_elements if work.flat else work.window(block)
        window_bytes = elements * work.element.bytes
        if window_bytes > unit.l2_bytes // 2 and best is not None:
            continue
        blocks = math.ceil(rows / block) * work.images
        tiles = block * (1 if work.flat else per_row / tile.rows)
        for chunk in chunk_sizes(channel_tiles):
            chunks = math.ceil(channel_tiles / chunk)
            tasks = blocks * chunks
            waves = math.ceil(tasks / threads)
            task = tiles * chunk * tile_cycles + 300.0
            if work.copies:
                task += elements / unit.lanes * 1.5
            for channels_first in (False, True):
                # What the busiest thread sees: tasks that follow each other.
                places = min(blocks, waves) if channels_first else math.ceil(waves / chunks)
                parts = math.ceil(waves / blocks) if channels_first else min(chunks, waves)
                # They share what the cache holds of the filters: all, or those of one chunk.
                shared = slice_bytes * (chunk if channels_first else channel_tiles)
                fits = shared + window_bytes < unit.l2_bytes * 3 // 4
                filters = slice_bytes * chunk * parts * (1 if fits else places)
                windows = window_bytes * places * (parts if channels_first and blocks > 1 else 1)
                traffic = (filters + windows) / L3_BYTES_PER_CYCLE
                foreign = foreign_cycles(window_bytes, output_bytes, blocks, places, threads)
                cost = waves * task + 0.5 * traffic + foreign
                if best is None or cost < best[0] * 0.999:
                    best = (cost, ConvTiling(tile, block, chunk, channels_first))
    assert best is not None
    return best


def again_cycles(moved: float, held: float, unit: VectorUnit) -> float:
    """Cycles of reading and writing what has been read or written shortly before, past the second-level cache.

    What is larger than a thread's share of the third-level cache is found there in part: as much as that share holds.

    Args:
        moved: bytes that are read and written.
        held: of them, those that are different: what is gone over again and again.
        unit: the target's caches.
    """
    if held <= unit.l2_bytes:
        return 0.0
    near = min(1.0, L3_SHARE_BYTES / held)
    return moved * (_SEEN * near / L3_BYTES_PER_CYCLE + (1 - near) / MEMORY_BYTES_PER_CYCLE)


def foreign_cycles(window_bytes: float, output_bytes: float, blocks: int, places: int, threads: int) -> float:
    """Cycles in which the busiest thread reads from another core's cache, or another one reads what it writes.

    Layers are cut by rows where possible: a thread then finds in its own cache what it wrote itself. Where it computes
    some channels of all rows, most of what it reads and writes is another's.

    Args:
        window_bytes: what a block of output rows reads.
        output_bytes: the whole output.
        blocks: blocks of rows in all.
        places: blocks that the busiest thread works on, for some or all channels.
        threads: at least 1.
    """
    own = blocks / threads
    if places <= own:
        return 0.0
    written = output_bytes / threads * (1 - own / places)
    return (window_bytes * (places - own) + written) / CROSS_BYTES_PER_CYCLE


def block_sizes(rows: int, multiple: int = 1) -> list[int]:
    """Rows of a block, multiples of a number, that cut all rows into some number of blocks."""
    sizes = {math.ceil(rows / parts) for parts in range(1, rows + 1)}
    return sorted(size for size in sizes if size % multiple == 0)


def chunk_sizes(tiles: int) -> list[int]:
    """Tiles of output channels of a task that cut all of them into some number of chunks."""
    return sorted({math.ceil(tiles / parts) for parts in range(1, tiles + 1)})
