"""Tile sizes of Winograd's algorithm, from the same model of the machine as a plain convolution's."""

from __future__ import annotations

import math
from collections.abc import Iterator

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import (
    COLD_BYTES_PER_CYCLE,
    ConvTiling,
    RegisterTile,
    WinogradTiling,
    again_cycles,
    foreign_cycles,
    register_tiles,
)
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import takes_winograd

_INPUT_CYCLES = {2: 70.0, 4: 200.0}
_OUTPUT_CYCLES = {2: 60.0, 4: 180.0}
"""Cycles of one tile's transforms, for a vector of channels; most of it is waiting for the second-level cache."""

_TASK_CYCLES = 300.0

_MOST_SCRATCH_BYTES = 48 << 20
"""Of a task's transformed inputs and sums, if it has more than one row of tiles: past the second-level cache a larger
block saves nothing, and one that grew with the image would take several times the image's memory."""


def winograd_tilings(
    geometry: ConvGeometry, batch: int, size: int, unit: VectorUnit, threads: int, direct: ConvTiling
) -> Iterator[tuple[float, WinogradTiling]]:
    """For every block the modelled cycles and the tiling; none where the algorithm doesn't fit the convolution."""
    if not takes_winograd(geometry, size):
        return
    across = math.ceil(geometry.output_size[1] / size)
    rows = math.ceil(geometry.output_size[0] / size) * batch
    for block in (each for each in range(1, rows + 1) if rows % each == 0):
        tiles = register_tiles(1, block * across, geometry.out_channels, unit, direct.tile.element)
        tile = min(tiles, key=lambda tile: _product_cycles(tile, block * across, geometry) * tile_count(geometry, tile))
        if block > 1 and sum(_scratch_bytes(geometry, size, block * across, tile)) > _MOST_SCRATCH_BYTES:
            break
        k_tiles = tile_count(geometry, tile)
        for chunk in sorted({k_tiles, math.ceil(k_tiles / threads)}):
            tiling = WinogradTiling(size, tile, block, chunk, direct)
            yield winograd_cost(geometry, batch, tiling, unit, threads), tiling


def tile_count(geometry: ConvGeometry, tile: RegisterTile) -> int:
    """Register tiles that cover the output channels."""
    return math.ceil(geometry.out_channels / tile.channels)


def winograd_cost(geometry: ConvGeometry, batch: int, tiling: WinogradTiling, unit: VectorUnit, threads: int) -> float:
    """Modelled cycles of the busiest thread."""
    tile, positions, waves = tiling.tile, (tiling.size + 2) ** 2, winograd_waves(geometry, batch, tiling, threads)
    tiles = tiling.block * tiling.grid(geometry)[1]
    inputs, sums = _scratch_bytes(geometry, tiling.size, tiles, tile)
    filters = filter_bytes(geometry, tiling)
    transforms = transform_cycles(geometry, tiling, unit)
    products = tiling.channel_tiles * positions * _product_cycles(tile, tiles, geometry)
    # Transformed inputs are written, and read for every tile of output channels; so are that one's sums.
    moved = inputs * (1 + tiling.channel_tiles) + 2 * sums * tiling.channel_tiles
    products += again_cycles(moved, inputs + sums, unit)
    read = filters * tiling.channel_tiles
    again = again_cycles(read * (waves - 1), read + inputs + sums, unit)
    cold = read / COLD_BYTES_PER_CYCLE
    blocks = _blocks(geometry, batch, tiling)
    image_bytes = float(tiling.direct.tile.element.bytes)
    window = image_bytes * tiling.block * tiling.size * geometry.input_size[1] * geometry.in_channels
    output = image_bytes * batch * math.prod(geometry.output_size) * geometry.out_channels
    foreign = foreign_cycles(window, output, blocks, min(blocks, waves), threads)
    return waves * (transforms + products + _TASK_CYCLES) + again + cold + foreign


def cold_bytes(geometry: ConvGeometry, batch: int, tiling: WinogradTiling, unit: VectorUnit, threads: int) -> float:
    """Bytes of filters that the busiest thread reads past its caches: tasks that share filters follow each other."""
    task = filter_bytes(geometry, tiling) * tiling.channel_tiles
    if task > unit.l2_bytes / 2:
        return task * winograd_waves(geometry, batch, tiling, threads)
    return task * math.ceil(_chunks(geometry, tiling) / threads)


def winograd_waves(geometry: ConvGeometry, batch: int, tiling: WinogradTiling, threads: int) -> int:
    """Tasks of the busiest thread."""
    return math.ceil(_blocks(geometry, batch, tiling) * _chunks(geometry, tiling) / threads)


def _blocks(geometry: ConvGeometry, batch: int, tiling: WinogradTiling) -> int:
    """Tasks that share their filters."""
    return tiling.grid(geometry)[0] * batch // tiling.block


def _chunks(geometry: ConvGeometry, tiling: WinogradTiling) -> int:
    """Tasks that share their inputs."""
    return math.ceil(tile_count(geometry, tiling.tile) / tiling.channel_tiles)


def _scratch_bytes(geometry: ConvGeometry, size: int, tiles: int, tile: RegisterTile) -> tuple[float, float]:
    """Of one task: its transformed inputs, and its sums."""
    each = (size + 2) ** 2 * tiles
    inputs = float(tile.element.bytes) * each * geometry.in_channels
    return inputs, float(tile.element.accumulator_bytes) * each * tile.channels


def filter_bytes(geometry: ConvGeometry, tiling: WinogradTiling) -> float:
    """Transformed filters of one tile of output channels."""
    return float(tiling.tile.element.bytes) * (tiling.size + 2) ** 2 * geometry.in_channels * tiling.tile.channels


def transform_cycles(geometry: ConvGeometry, tiling: WinogradTiling, unit: VectorUnit) -> float:
    """Modelled cycles of one task's transforms."""
    inputs = math.ceil(geometry.in_channels / unit.lanes) * _INPUT_CYCLES[tiling.size]
    outputs = tiling.channel_tiles * tiling.tile.vectors * _OUTPUT_CYCLES[tiling.size]
    return tiling.block * tiling.grid(geometry)[1] * (inputs + outputs)


def _product_cycles(tile: RegisterTile, tiles: int, geometry: ConvGeometry) -> float:
    """Cycles of one position's products with the filters of one tile of output channels."""
    sums = tile.cycles() * geometry.in_channels + 3.0 * tile.columns * tile.vectors
    return math.ceil(tiles / tile.columns) * sums
