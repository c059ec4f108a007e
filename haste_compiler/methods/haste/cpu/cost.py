"""What HASTE's kernels for CPUs do, counted, and what that takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from haste_compiler.codegen.cpu.cost import CostModel, Features
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.cpu.layout import kept_images, row_floats
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling, loads, product_cycles
from haste_compiler.methods.haste.found import Merging

GROUP = (
    "launch",
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


_L1_BYTES = 32 << 10


_PLANE_ENTRIES = 4
"""Non-zeros that take as long as a plane's mean and bits."""


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
    far = FLOAT32.bytes * channels * row > _L1_BYTES
    entries = geometry.window_pixels / 3 if nonzeros is None else min(nonzeros, geometry.window_pixels)
    window, hashed = float(count * vectors * row), count * planes * vectors * (entries + _PLANE_ENTRIES)
    written = float(FLOAT32.bytes) * count * (channels + float(np.mean(found.groups))) * row
    return {
        "launch": 1.0,
        "tasks": float(count),
        "window": window,
        "far_window": window * far,
        "hash": hashed,
        "far_hash": hashed * far,
        "channels": float(count * channels),
        "kept": count * float(np.mean(channels - found.zeros - found.flats)),
        "flats": count * float(np.mean(found.flats)),
        "merge": count * float(np.mean(found.merges)) * row / lanes,
        "spill": 0.0 if _restores(geometry, batch, unit, threads) else _beyond_l2(written, unit),
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
    restores = _restores(geometry, batch, unit, threads)
    chunks = 1 if restores else math.ceil(k_tiles / tiling.channel_tiles)
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
    slice_bytes = float(tile.element.bytes) * channels * taps * tile.channels
    filters = slice_bytes * geometry.groups * k_tiles
    windows = float(FLOAT32.bytes) * patches * geometry.groups * convolved * row_floats(geometry, unit.lanes)
    spilled = 0.0 if restores else _beyond_l2(windows, unit) * chunks / threads
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


def _restores(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int) -> bool:
    """Whether windows are made again: a patch's stay in the caches while it is grouped, and while it is convolved."""
    return batch > kept_images(geometry, unit.lanes, threads)


PHASES: Mapping[str, tuple[str, ...]] = {"group": GROUP, "convolve": CONVOLVE}
"""The phases of both kernels."""


def group(model: CostModel, geometry: ConvGeometry, batch: int, config: HasteConfig, merging: Merging) -> float:
    """Seconds of reading, hashing, grouping and merging windows."""
    work = group_features(geometry, batch, model.unit, model.threads, config.num_hyperplanes, config.nonzeros, merging)
    return model.seconds_of("group", work)


def convolve(model: CostModel, geometry: ConvGeometry, batch: int, config: HasteConfig, merging: Merging) -> float:
    """Seconds of merging filters and convolving what is left; of making windows again where they aren't kept."""
    work = convolve_features(geometry, batch, model.unit, model.threads, config.skip, merging)
    seconds = model.seconds_of("convolve", work)
    if not _restores(geometry, batch, model.unit, model.threads):
        return seconds
    again = group_features(geometry, batch, model.unit, model.threads, config.num_hyperplanes, config.nonzeros, merging)
    return seconds + model.seconds_of("group", {phase: again[phase] for phase in ("window", "far_window", "merge")})
