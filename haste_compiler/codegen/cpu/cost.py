"""What a CPU's dense kernels do, counted, and what that takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import ConvTiling, WinogradTiling
from haste_compiler.codegen.cpu.winograd_tiling import cold_bytes, transform_cycles, winograd_waves
from haste_compiler.graph.geometry import ConvGeometry

Features = dict[str, float]
"""Units of work by phase."""


DENSE = ("call", "cycles", "tiles", "copies", "reloads", "traffic")


WINOGRAD = ("call", "cycles", "tiles", "transforms", "cold")


SHARED = ("call", "cycles", "tiles", "reloads", "traffic")
"""Phases that all but the grouping kernel go through alike."""


def dense_features(geometry: ConvGeometry, batch: int, tiling: ConvTiling, unit: VectorUnit, threads: int) -> Features:
    """Work of the plain kernel: register-tile cycles, tiles written, elements copied to pad, bytes past the L2."""
    tile = tiling.tile
    work = conv_work(geometry, batch, tile.element)
    k_tiles = work.groups * math.ceil(work.channels / tile.channels)
    across = math.ceil(work.columns / tile.columns)
    rows, per_row = (across, 1.0) if work.flat else (work.rows, across / tile.rows)
    blocks = math.ceil(rows / tiling.block) * work.images
    chunks = math.ceil(k_tiles / tiling.channel_tiles)
    tasks = blocks * chunks
    imbalance = math.ceil(tasks / threads) / tasks
    tiles = rows * per_row * work.images * k_tiles * imbalance
    elements = tiling.block * tile.columns * work.window_row_elements if work.flat else work.window(tiling.block)
    # Filters of one register tile that crowd the second-level cache come from beyond it for the next one again.
    slice_bytes = float(tile.element.bytes) * work.depth * tile.channels
    filters = slice_bytes * k_tiles
    fits = filters + work.element.bytes * elements < unit.l2_bytes * 3 / 4
    again = 1 if fits or tiling.channels_first else blocks
    windows = float(work.element.bytes) * elements * blocks * (chunks if tiling.channels_first and blocks > 1 else 1)
    return {
        "call": 1.0,
        "cycles": tiles * tile.cycles() * work.depth,
        "tiles": tiles * tile.pixels * tile.vectors,
        "copies": float(tasks * elements) / unit.lanes * imbalance if work.copies else 0.0,
        "reloads": tiles * slice_bytes if slice_bytes > unit.l2_bytes / 2 else 0.0,
        "traffic": (filters * again + windows) / threads,
    }


def winograd_features(
    geometry: ConvGeometry, batch: int, tiling: WinogradTiling, unit: VectorUnit, threads: int
) -> Features:
    """Work of Winograd's algorithm: register-tile cycles, sums written, cycles of transforms, bytes of filters."""
    tile, waves = tiling.tile, winograd_waves(geometry, batch, tiling, threads)
    tiles = tiling.block * tiling.grid(geometry)[1]
    products = waves * (tiling.size + 2) ** 2 * tiling.channel_tiles * math.ceil(tiles / tile.columns)
    return {
        "call": 1.0,
        "cycles": products * tile.cycles() * geometry.in_channels,
        "tiles": float(products * tile.pixels * tile.vectors),
        "transforms": waves * transform_cycles(geometry, tiling, unit),
        "cold": cold_bytes(geometry, batch, tiling, unit, threads),
    }


@dataclass(frozen=True)
class CostModel:
    """Predicts times on one machine.

    Attributes:
        unit: the vector unit.
        threads: threads that work on a kernel.
        seconds: by kernel ("dense", "winograd", the methods' own), then by phase: seconds for one unit of that phase's
            work.
        source: where the coefficients come from, in words.
    """

    unit: VectorUnit
    threads: int
    seconds: Mapping[str, Mapping[str, float]]
    source: str

    def dense(self, geometry: ConvGeometry, batch: int, winograd: int) -> float:
        """Seconds of the dense convolution, with Winograd's tiles up to so large where they are chosen."""
        return self.seconds_of(*dense_work(geometry, batch, self.unit, self.threads, winograd))

    def seconds_of(self, kernel: str, features: Features) -> float:
        """Seconds of one call of a kernel that does so much work."""
        return math.fsum(self.seconds[kernel][phase] * units for phase, units in features.items())


def dense_work(
    geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, winograd: int
) -> tuple[str, Features]:
    """The kernel that computes a dense convolution, and the work of one call by phase."""
    tiling = choose_dense(geometry, batch, unit, threads, winograd)
    if isinstance(tiling, WinogradTiling):
        return "winograd", winograd_features(geometry, batch, tiling, unit, threads)
    return "dense", dense_features(geometry, batch, tiling, unit, threads)


PHASES: Mapping[str, tuple[str, ...]] = {"dense": DENSE, "winograd": WINOGRAD}
"""The phases of the plain kernels."""
