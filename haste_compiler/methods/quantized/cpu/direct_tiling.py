"""How a convolution of narrow numbers is cut, from a model of the machine like float32's (``codegen.cpu.tiling``)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import (
    COLD_BYTES_PER_CYCLE,
    L2_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    ConvTiling,
    RegisterTile,
    block_sizes,
    chunk_sizes,
    foreign_cycles,
)
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.ternary import NarrowSums
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit, ProductUnit
from haste_compiler.methods.quantized.reference.direct import by_pixels

INTEGER = IntegerUnit.FILTERS
"""What filters of integers are made of, and what their products are summed in."""

_TRIED = 6
"""So many register tiles, those that take the fewest cycles, are tried with every block."""

_MOST_VECTORS = 8

_LATENCY = 4.0
"""Cycles from a product to the next one that is added to the same register, where one instruction does both."""

_STEP_CYCLES = 0.2
"""Of a loop's counting, a step."""

_SUM_CYCLES = 3.0
"""Of the epilogue of a vector of outputs."""

_TASK_CYCLES = 300.0

_HIDDEN = 0.6
"""Share of the time of reading filters for the first time that a kernel computes meanwhile."""


def integer_tiles(columns: int, channels: int, unit: ProductUnit) -> Iterator[RegisterTile]:
    """Every register tile that fits the registers, a row of pixels, and the output channels of a conv group.

    A tile of one pixel holds the filters of one vector at a time.
    """
    for vectors in range(1, min(_MOST_VECTORS, math.ceil(channels / unit.lanes)) + 1):
        for pixels in range(1, columns + 1):
            held = (1 if pixels == 1 else vectors) * unit.DEPTH
            if pixels * vectors + held + unit.DEPTH + unit.TEMPORARIES > unit.registers:
                break
            yield RegisterTile(1, pixels, vectors, unit.lanes, unit.FILTERS)


def step_cycles(tile: RegisterTile, unit: ProductUnit) -> float:
    """Modelled cycles of one group of values of each pixel.

    The products, and filters' way to 16 bits where they need one, half a product each; loads: a value for all lanes one
    a cycle, filters two; the wait for sums.
    """
    widened = tile.vectors / 2 if unit.DTYPE == "int16" else 0.0
    products = (tile.pixels * tile.vectors + widened) * unit.CYCLES
    loads = (tile.pixels + tile.vectors / 2) * unit.DEPTH
    filters = tile.channels * unit.GROUP * unit.FILTERS.bytes / L2_BYTES_PER_CYCLE
    latency = _LATENCY if unit.ACCUMULATES else 1.0
    return max(products, loads, filters, latency) + _STEP_CYCLES


def choose_direct(
    geometry: ConvGeometry, batch: int, unit: ProductUnit, machine: VectorUnit, threads: int
) -> tuple[float, ConvTiling]:
    """The modelled cycles of the busiest thread, and the tiling that has the fewest.

    Args:
        geometry: the convolution's.
        batch: images.
        unit: what multiplies.
        machine: the same target's vectors and caches.
        threads: that tasks are cut for.
    """
    work = _Work(geometry, batch, unit)
    tiles = integer_tiles(work.columns, geometry.out_channels // geometry.groups, unit)
    tried = heapq.nsmallest(_TRIED, tiles, key=work.products)
    return min((work.cheapest(tile, machine, threads) for tile in tried), key=lambda each: each[0])


def cheapest_tile(geometry: ConvGeometry, unit: IntegerUnit, columns: int) -> RegisterTile:
    """The register tile, of up to so many pixels, whose products take the fewest cycles."""
    tiles = integer_tiles(columns, geometry.out_channels // geometry.groups, unit)
    return min(tiles, key=_Work(geometry, 1, unit).products)


@dataclass(frozen=True)
class _Work:
    """What a convolution takes."""

    geometry: ConvGeometry
    batch: int
    unit: ProductUnit

    @property
    def pixels(self) -> int:
        """Of all outputs."""
        return self.batch * math.prod(self.geometry.output_size)

    @property
    def columns(self) -> int:
        """Pixels of a row that register tiles cover."""
        return self.pixels if by_pixels(self.geometry) else self.geometry.output_size[1]

    def tile_cycles(self, tile: RegisterTile) -> float:
        """Of one register tile."""
        layout = filter_layout(self.geometry, tile.channels, self.unit)
        steps = layout.taps * layout.steps
        row = steps * step_cycles(tile, self.unit)
        if isinstance(self.unit, NarrowSums):
            widened = layout.taps * math.ceil(layout.steps / self.unit.MOST_STEPS)
            row += widened * self.unit.WIDENING_CYCLES * tile.pixels * tile.vectors
        if not by_pixels(self.geometry):
            row += self.unit.ROW_CYCLES * tile.pixels * tile.vectors
        return self.geometry.kernel[0] * row + _SUM_CYCLES * tile.pixels * tile.vectors

    def products(self, tile: RegisterTile) -> float:
        """Cycles of all register tiles, those that overhang the image too."""
        rows = 1 if by_pixels(self.geometry) else self.batch * self.geometry.output_size[0]
        across = math.ceil(self.columns / tile.columns)
        return rows * across * filter_layout(self.geometry, tile.channels, self.unit).tiles * self.tile_cycles(tile)

    def lines(self, tile: RegisterTile, block: int) -> tuple[int, int]:
        """Lines with a scale each that a task rounds, and the values of one."""
        geometry = self.geometry
        if by_pixels(geometry):
            return min(block * tile.columns, self.pixels), geometry.in_channels
        rows = (block - 1) * geometry.stride[0] + (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
        _, _, left, right = geometry.padding
        return rows, (left + geometry.input_size[1] + right) * geometry.in_channels

    def cheapest(self, tile: RegisterTile, machine: VectorUnit, threads: int) -> tuple[float, ConvTiling]:
        """The best cut with a register tile."""
        layout = filter_layout(self.geometry, tile.channels, self.unit)
        across, tile_cycles = math.ceil(self.columns / tile.columns), self.tile_cycles(tile)
        flat = by_pixels(self.geometry)
        units, images, per_unit = (across, 1, 1) if flat else (self.geometry.output_size[0], self.batch, across)
        output_bytes = 4.0 * self.pixels * self.geometry.out_channels
        tile_bytes = layout.tile_elements * self.unit.FILTERS.bytes
        cold = (1 - _HIDDEN) * layout.tiles * tile_bytes / COLD_BYTES_PER_CYCLE / threads
        best: tuple[float, ConvTiling] | None = None
        for block in block_sizes(units):
            lines, elements = self.lines(tile, block)
            scratch_bytes = lines * elements * np.dtype(self.unit.DTYPE).itemsize
            if scratch_bytes > machine.l2_bytes // 2 and best is not None:
                break
            vectors = math.ceil(elements / self.unit.lanes)
            rounding = lines * (vectors * self.unit.ROUNDING_CYCLES + self.unit.LINE_CYCLES)
            window_bytes = 4.0 * lines * elements
            written_bytes = output_bytes * block / (units * images)
            blocks = math.ceil(units / block) * images
            for chunk in chunk_sizes(layout.tiles):
                chunks = math.ceil(layout.tiles / chunk)
                waves = math.ceil(blocks * chunks / threads)
                task = block * per_unit * chunk * tile_cycles + rounding + _TASK_CYCLES
                # Outputs are written a few channels of all pixels at a time.
                written = written_bytes * chunk / layout.tiles
                if scratch_bytes + written > machine.l2_bytes * 3 // 4:
                    task += written / L3_BYTES_PER_CYCLE
                for channels_first in (False, True):
                    # What the busiest thread sees: tasks that follow each other.
                    places = min(blocks, waves) if channels_first else math.ceil(waves / chunks)
                    parts = math.ceil(waves / blocks) if channels_first else min(chunks, waves)
                    # They share what the cache holds of the filters: all, or those of one chunk.
                    shared = tile_bytes * (chunk if channels_first else layout.tiles)
                    fits = shared + scratch_bytes < machine.l2_bytes * 3 // 4
                    filters = tile_bytes * chunk * parts * (1 if fits else places)
                    windows = window_bytes * places * (parts if channels_first and blocks > 1 else 1)
                    foreign = foreign_cycles(int(window_bytes), output_bytes, blocks, places, threads)
                    cost = waves * task + 0.5 * (filters + windows) / L3_BYTES_PER_CYCLE + foreign + cold
                    if best is None or cost < best[0] * 0.999:
                        best = (cost, ConvTiling(tile, block, chunk, channels_first))
        assert best is not None
        return best
