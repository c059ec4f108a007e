"""What the kernels do, counted: for each phase of a kernel how many units of its work one call takes.

Seconds are these counts times one coefficient for each phase (``CostModel``). Work is counted for the busiest thread:
tasks are handed out whole, so the last wave of tasks counts in full.
"""

from __future__ import annotations

import math

import numpy as np

from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import ConvTiling, WinogradTiling
from haste_compiler.codegen.cpu.winograd_tiling import cold_bytes, transform_cycles, winograd_waves
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.layout import row_floats
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling, loads, product_cycles
from haste_compiler.methods.haste.found import Merging

Features = dict[str, float]
"""Units of work by phase."""

DENSE = ("call", "cycles", "tiles", "copies", "reloads", "traffic")
WINOGRAD = ("call", "cycles", "tiles", "transforms", "cold")
GROUP = (
    "call",
    "tasks",
    "window",
    "far_window",
    "hash",
    "far_hash",
    "channels",
    "kept",
    "flats",
    "merge",
    "spill",
)
CONVOLVE = (
    "call",
    "steps",
    "cycles",
    "loads",
    "channels",
    "tiles",
    "merged_filters",
    "flats",
    "reloads",
    "spill",
    "traffic",
)

SHARED = ("call", "cycles", "tiles", "reloads", "traffic")
"""Phases that all but the grouping kernel go through alike."""

_L1_BYTES = 32 << 10
_PLANE_ENTRIES = 4
"""Non-zeros that take as long as a plane's mean and bits."""


def dense_features(geometry: ConvGeometry, batch: int, tiling: ConvTiling, unit: VectorUnit, threads: int) -> Features:
    """Work of the plain kernel: register-tile cycles, tiles written, floats copied to pad, bytes past the L2."""
    work = conv_work(geometry, batch)
    tile = tiling.tile
    k_tiles = work.groups * math.ceil(work.channels / tile.channels)
    across = math.ceil(work.columns / tile.columns)
    rows, per_row = (across, 1.0) if work.flat else (work.rows, across / tile.rows)
    blocks = math.ceil(rows / tiling.block) * work.images
    chunks = math.ceil(k_tiles / tiling.channel_tiles)
    tasks = blocks * chunks
    imbalance = math.ceil(tasks / threads) / tasks
    tiles = rows * per_row * work.images * k_tiles * imbalance
    floats = tiling.block * tile.columns * work.window_row_floats if work.flat else work.window(tiling.block)
    # Filters of one register tile that crowd the second-level cache come from beyond it for the next one again.
    slice_bytes = 4.0 * work.depth * tile.channels
    filters = slice_bytes * k_tiles
    fits = filters + 4 * floats < unit.l2_bytes * 3 / 4
    again = 1 if fits or tiling.channels_first else blocks
    windows = 4.0 * floats * blocks * (chunks if tiling.channels_first and blocks > 1 else 1)
    return {
        "call": 1.0,
        "cycles": tiles * tile.cycles() * work.depth,
        "tiles": tiles * tile.pixels * tile.vectors,
        "copies": float(tasks * floats) / unit.lanes * imbalance if work.copies else 0.0,
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


def group_features(
    geometry: ConvGeometry,
    batch: int,
    unit: VectorUnit,
    threads: int,
    planes: int,
    nonzeros: int | None,
    merging: Merging,
) -> Features:
    """Work of the grouping kernel: windows read and turned, hashing, sorting, merging."""
    tasks = batch * math.prod(geometry.patch_grid) * geometry.groups
    count = math.ceil(tasks / threads)
    channels, row = geometry.in_channels // geometry.groups, row_floats(geometry, unit.lanes)
    vectors, lanes = math.ceil(channels / unit.lanes), unit.lanes
    found = merging.found
    # A window that the first-level cache can't hold is read from the second for every hyperplane.
    far = 4 * channels * row > _L1_BYTES
    entries = geometry.window_pixels / 3 if nonzeros is None else min(nonzeros, geometry.window_pixels)
    window, hashed = float(count * vectors * row), count * planes * vectors * (entries + _PLANE_ENTRIES)
    written = 4.0 * count * (channels + float(np.mean(found.groups))) * row
    return {
        "call": 1.0,
        "tasks": float(count),
        "window": window,
        "far_window": window * far,
        "hash": hashed,
        "far_hash": hashed * far,
        "channels": float(count * channels),
        "kept": count * float(np.mean(channels - found.zeros - found.flats)),
        "flats": count * float(np.mean(found.flats)),
        "merge": count * float(np.mean(found.merges)) * row / lanes,
        "spill": _beyond_l2(written, unit),
    }


def convolve_features(
    geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, skip: str, merging: Merging
) -> Features:
    """Work of the convolving kernel: filters merged, register-tile cycles, carried means, bytes past the L2."""
    tiling = choose_haste_tiling(geometry, batch, unit, threads)
    tile, taps, per_group = tiling.tile, geometry.taps, geometry.out_channels // geometry.groups
    channels = geometry.in_channels // geometry.groups
    k_tiles = math.ceil(per_group / tile.channels)
    patches = batch * math.prod(geometry.patch_grid)
    chunks = math.ceil(k_tiles / tiling.channel_tiles)
    tasks = patches * geometry.groups * chunks
    steps = patches * geometry.groups * k_tiles * math.ceil(tasks / threads) * threads / tasks / threads
    # Smaller patches at the edge run fewer tiles.
    grid_h, grid_w = geometry.patch_grid
    rows = sum(math.ceil(geometry.patch_outputs(row, 0)[0] / tile.rows) for row in range(grid_h)) / grid_h
    columns = sum(math.ceil(geometry.patch_outputs(0, column)[1] / tile.columns) for column in range(grid_w)) / grid_w
    tiles = rows * columns
    found = merging.found
    # Near a border carried means become one more merged filter.
    masked = merging.on_border & (found.flats > 0.5) & (skip == "flat")
    convolved = float(np.mean(found.kept + masked))
    summed = float(np.mean(found.members + np.where(masked, found.flats, 0)))
    inside = float(np.mean(np.where(masked, 0, found.flats))) if skip == "flat" else 0.0
    used = (float(np.mean(found.singles)) + summed) / channels
    slice_bytes = 4.0 * channels * taps * tile.channels
    filters = slice_bytes * geometry.groups * k_tiles
    windows = 4.0 * patches * geometry.groups * convolved * row_floats(geometry, unit.lanes)
    spilled = _beyond_l2(windows, unit) * chunks / threads
    return {
        "call": 1.0,
        "steps": steps,
        "cycles": steps * tiles * convolved * product_cycles(geometry, tile),
        "loads": steps * tiles * convolved * loads(geometry, tile),
        "channels": steps * tiles * convolved,
        "tiles": steps * tiles * tile.pixels * tile.vectors,
        "merged_filters": steps * summed * taps * tile.vectors,
        "flats": steps * inside * tile.vectors,
        "reloads": steps * tiles * slice_bytes * convolved / channels if slice_bytes > unit.l2_bytes / 2 else 0.0,
        "spill": spilled,
        "traffic": filters * used / threads,
    }


def _beyond_l2(window_bytes: float, unit: VectorUnit) -> float:
    """Bytes of windows that are written and read again past the second-level cache: all of them, or none."""
    return window_bytes if window_bytes > 2 * unit.l2_bytes else 0.0
