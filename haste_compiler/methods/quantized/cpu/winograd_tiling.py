"""How a convolution of narrow numbers by Winograd's algorithm is cut, from a model of the machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import (
    COLD_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    RegisterTile,
    foreign_cycles,
)
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.direct_tiling import integer_tiles, step_cycles
from haste_compiler.methods.quantized.cpu.unit import ProductUnit

_CLOSE = 1.1
"""Register tiles that take at most so many times the fewest cycles are tried with every number of tiles."""

_MOST_SUMS = 0.75
"""Share of the registers that sums take: of more LLVM makes copies, or keeps some in memory."""

_OUTPUT_CYCLES = {2: 70.0, 4: 200.0}
"""Cycles of transforming one tile's sums back, for a vector of output channels."""

_SUM_CYCLES = 1.0
"""Cycles of making a vector of sums float32."""

_TASK_CYCLES = 300.0

_MOST_TILES = 128
"""Of a task: more share its filters no better."""


@dataclass(frozen=True)
class WinogradTiling:
    """How a 3×3 convolution of narrow numbers is cut.

    Attributes:
        size: m, the side of a tile of outputs.
        tile: the register tile of the products: tiles (as columns) times output channels.
        tiles: of one task; they follow each other through rows and images.
        channel_tiles: register tiles of output channels of one task.
    """

    size: int
    tile: RegisterTile
    tiles: int
    channel_tiles: int

    @property
    def side(self) -> int:
        """m + 2, the side of a tile's window."""
        return self.size + 2

    @property
    def positions(self) -> int:
        """Products of a tile, for each channel."""
        return self.side**2

    def grid(self, geometry: ConvGeometry) -> tuple[int, int]:
        """Tiles down and across an image; the last ones overhang it."""
        height, width = geometry.output_size
        return math.ceil(height / self.size), math.ceil(width / self.size)


def choose_winograd(
    geometry: ConvGeometry, batch: int, size: int, unit: ProductUnit, machine: VectorUnit, threads: int
) -> tuple[float, WinogradTiling]:
    """The modelled cycles of the busiest thread, and the tiling that has the fewest.

    Args:
        geometry: the convolution's, see ``graph.winograd.takes_winograd``.
        batch: images.
        size: side of a tile of outputs, one of ``graph.winograd.SIZES``.
        unit: what multiplies.
        machine: the same target's vectors and caches.
        threads: that tasks are cut for.
    """
    height, width = geometry.output_size
    total = math.ceil(height / size) * math.ceil(width / size) * batch
    work = _Work(geometry, size, total, unit, machine, threads)
    return min(((work.cycles(tiling), tiling) for tiling in work.tilings()), key=lambda each: each[0])


@dataclass(frozen=True)
class _Work:
    """What a convolution by tiles of a size takes, of ``total`` tiles."""

    geometry: ConvGeometry
    size: int
    total: int
    unit: ProductUnit
    machine: VectorUnit
    threads: int

    @property
    def steps(self) -> int:
        """Groups of channels."""
        return math.ceil(self.geometry.in_channels / self.unit.GROUP)

    def k_tiles(self, tile: RegisterTile) -> int:
        """Register tiles that cover the output channels."""
        return math.ceil(self.geometry.out_channels / tile.channels)

    def tilings(self) -> Iterator[WinogradTiling]:
        """What is worth a look."""
        tiles = integer_tiles(self.total, self.geometry.out_channels, self.unit)
        most_sums = _MOST_SUMS * self.unit.registers
        costs = {
            tile: self.k_tiles(tile) * self._products(tile, self.total)
            for tile in tiles
            if tile.columns * tile.vectors <= most_sums
        }
        for tile, cost in costs.items():
            if cost > _CLOSE * min(costs.values()):
                continue
            k_tiles, most = self.k_tiles(tile), min(self.total, _MOST_TILES)
            counts = {min(count, self.total) for count in range(tile.columns, most + tile.columns, tile.columns)}
            counts |= {math.ceil(self.total / parts) for parts in range(1, 4 * self.threads + 1)}
            for count in counts:
                for chunk in {k_tiles, math.ceil(k_tiles / self.threads)}:
                    yield WinogradTiling(self.size, tile, count, chunk)

    def cycles(self, tiling: WinogradTiling) -> float:
        """Modelled cycles of the busiest thread."""
        tile, geometry = tiling.tile, self.geometry
        blocks = math.ceil(self.total / tiling.tiles)
        chunks = math.ceil(self.k_tiles(tile) / tiling.channel_tiles)
        waves = math.ceil(blocks * chunks / self.threads)
        # The last task may have fewer tiles, which makes all shorter on one thread only.
        tiles = self.total / blocks if self.threads == 1 else tiling.tiles
        vectors = math.ceil(geometry.in_channels / self.unit.lanes)
        inputs = vectors * self.unit.INPUT_CYCLES[self.size] + self.unit.TILE_CYCLES[self.size]
        outputs = tiling.channel_tiles * tile.vectors * _OUTPUT_CYCLES[self.size]
        products = tiling.channel_tiles * tiling.positions * self._products(tile, tiling.tiles)
        products *= tiles / tiling.tiles
        values, sums, filters = self._bytes(tiling)
        if values + sums > self.machine.l2_bytes:
            # Rounded inputs are read from further away for every tile of output channels.
            products += 2 * (values + sums) * tiling.channel_tiles / L3_BYTES_PER_CYCLE
        fits = filters + values + sums < self.machine.l2_bytes
        again = 0.0 if fits else filters * (waves - 1) / L3_BYTES_PER_CYCLE
        window = 4.0 * tiling.tiles * self.size**2 * geometry.in_channels
        output = 4.0 * self.total * self.size**2 * geometry.out_channels
        foreign = foreign_cycles(int(window), output, blocks, min(blocks, waves), self.threads)
        return waves * (tiles * (inputs + outputs) + products + _TASK_CYCLES) + (
            0.5 * again + filters / COLD_BYTES_PER_CYCLE + foreign
        )

    def _products(self, tile: RegisterTile, count: int) -> float:
        """Of one position, with the filters of one tile of output channels."""
        sums = step_cycles(tile, self.unit) * self.steps + _SUM_CYCLES * tile.columns * tile.vectors
        return math.ceil(count / tile.columns) * sums

    def _bytes(self, tiling: WinogradTiling) -> tuple[float, float, float]:
        """Of one task: its rounded inputs, its sums, and the filters that it reads."""
        channels = self.steps * self.unit.GROUP
        values = np.dtype(self.unit.DTYPE).itemsize * tiling.positions * tiling.tiles * channels
        sums = 4 * tiling.positions * tiling.tiles * tiling.tile.channels
        filters = self.unit.FILTERS.bytes * tiling.positions * tiling.tile.channels * channels
        return values, sums, filters * tiling.channel_tiles
