"""How a quantized convolution by Winograd's algorithm is cut, from a model of the machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import (
    COLD_BYTES_PER_CYCLE,
    L2_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    RegisterTile,
    foreign_cycles,
)
from haste_compiler.codegen.element import Element
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import takes_winograd
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit

INT8 = Element("int8", 1, "int32")

_INPUT_CYCLES = {2: 40.0, 4: 110.0}
"""Cycles of one tile's transform and rounding, for a vector of channels."""

_SCALE_CYCLES = {2: 40.0, 4: 90.0}
"""Cycles of finding one tile's scales, however many channels it has."""

_OUTPUT_CYCLES = {2: 30.0, 4: 75.0}
"""Cycles of transforming one tile's sums back, for a vector of output channels."""

_TASK_CYCLES = 300.0

_MOST_TILES = 256
"""Of a task: more share the filters no better."""


@dataclass(frozen=True)
class WinogradTiling:
    """How a quantized 3×3 convolution is cut.

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

    def k_tiles(self, geometry: ConvGeometry) -> int:
        """Register tiles that cover the output channels."""
        return math.ceil(geometry.out_channels / self.tile.channels)


def choose_winograd(
    geometry: ConvGeometry, batch: int, size: int, unit: IntegerUnit, vectors: VectorUnit, threads: int
) -> tuple[float, WinogradTiling] | None:
    """The modelled cycles of the busiest thread, and the tiling that has the fewest; None where it doesn't fit.

    Args:
        geometry: the convolution.
        batch: images.
        size: side of a tile of outputs, one of ``graph.winograd.SIZES``.
        unit: what integers are multiplied with.
        vectors: the target's vector unit.
        threads: that tasks are cut for.
    """
    if not takes_winograd(geometry, size):
        return None
    found = (
        (winograd_cycles(geometry, batch, tiling, unit, vectors, threads), tiling)
        for tiling in _tilings(geometry, batch, size, unit, threads)
    )
    return min(found, key=lambda each: each[0])


def _tilings(
    geometry: ConvGeometry, batch: int, size: int, unit: IntegerUnit, threads: int
) -> Iterator[WinogradTiling]:
    height, width = geometry.output_size
    total = math.ceil(height / size) * math.ceil(width / size) * batch
    for tile in register_tiles(geometry.out_channels, total, unit):
        k_tiles = math.ceil(geometry.out_channels / tile.channels)
        most = min(total, _MOST_TILES)
        counts = {min(total, count) for count in range(tile.columns, most + tile.columns, tile.columns)}
        counts |= {math.ceil(total / parts) for parts in range(math.ceil(total / most), 2 * threads + 1)}
        for tiles in counts:
            for chunk in {k_tiles, math.ceil(k_tiles / threads)}:
                yield WinogradTiling(size, tile, tiles, chunk)


def register_tiles(channels: int, columns: int, unit: IntegerUnit) -> Iterator[RegisterTile]:
    """Every register tile of up to so many output channels and columns that fits the registers."""
    for vectors in range(1, 5):
        if vectors > 1 and (vectors - 1) * unit.lanes >= channels:
            break
        room = unit.registers - vectors - 1 - unit.TEMPORARIES
        for count in range(1, min(columns, room // vectors) + 1):
            yield RegisterTile(1, count, vectors, unit.lanes, INT8)


def step_cycles(tile: RegisterTile, unit: IntegerUnit) -> float:
    """Cycles of the products of one group of values of each column."""
    products = tile.columns * tile.vectors * unit.CYCLES + 0.5 * tile.vectors
    loads = (tile.columns + tile.vectors) / 2
    filters = tile.channels * unit.GROUP / L2_BYTES_PER_CYCLE
    return max(products, loads, filters) + 0.5


def winograd_cycles(
    geometry: ConvGeometry, batch: int, tiling: WinogradTiling, unit: IntegerUnit, vectors: VectorUnit, threads: int
) -> float:
    """Modelled cycles of the busiest thread."""
    tile, size = tiling.tile, tiling.size
    total, k_tiles = batch * math.prod(tiling.grid(geometry)), tiling.k_tiles(geometry)
    blocks, chunks = math.ceil(total / tiling.tiles), math.ceil(k_tiles / tiling.channel_tiles)
    waves = math.ceil(blocks * chunks / threads)
    steps = math.ceil(geometry.in_channels / unit.GROUP)
    inputs = _INPUT_CYCLES[size] * math.ceil(geometry.in_channels / unit.lanes) + _SCALE_CYCLES[size]
    outputs = tiling.channel_tiles * tile.vectors * _OUTPUT_CYCLES[size]
    register_tile = step_cycles(tile, unit) * steps + 2.0 * tile.columns * tile.vectors + 10.0
    across = math.ceil(tiling.tiles / tile.columns)
    products = tiling.channel_tiles * tiling.positions * across * register_tile
    filters = float(tiling.positions * tile.channels * steps * unit.GROUP) * tiling.channel_tiles
    values = float(tiling.positions * tiling.tiles * steps * unit.GROUP * (2 if unit.DTYPE == "int16" else 1))
    sums = 4.0 * tiling.positions * tiling.tiles * tile.channels
    if values + sums > vectors.l2_bytes:
        # Rounded inputs are read again for every tile of output channels.
        products += 0.5 * values * tiling.channel_tiles / L3_BYTES_PER_CYCLE
    fits = filters + values + sums < vectors.l2_bytes
    again = 0 if fits else filters * (waves - 1) / L3_BYTES_PER_CYCLE
    task = tiling.tiles * (inputs + outputs) + products + _TASK_CYCLES
    window = 4.0 * tiling.tiles * size**2 * geometry.in_channels
    output = 4.0 * batch * math.prod(geometry.output_size) * geometry.out_channels
    foreign = foreign_cycles(window, output, blocks, min(blocks, waves), threads)
    # Where the last of several tasks has few tiles it takes less, but on one thread only.
    share = total / (blocks * tiling.tiles) if threads == 1 else 1.0
    return waves * task * share + 0.5 * again + filters * chunks / min(chunks, threads) / COLD_BYTES_PER_CYCLE + foreign
