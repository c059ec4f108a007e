"""How a HASTE layer's convolution is cut: register tiles inside a patch, and tasks that share the output channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import RegisterTile, register_tiles
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.layout import kept_images

_CYCLES_PER_LOAD = 0.25


@dataclass(frozen=True)
class HasteTiling:
    """The tiling of one layer on one target.

    Attributes:
        tile: the register tile inside a patch.
        channel_tiles: tiles of output channels that one task computes, if windows are kept; if not, it computes all.
        lanes: the target's vector width, which pads the windows; the register tile's may be narrower.
        kept: images of a call whose windows are kept, see ``kept_images``; None: of all.
    """

    tile: RegisterTile
    channel_tiles: int
    lanes: int
    kept: int | None


def choose_haste_tiling(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int) -> HasteTiling:
    """The register tile with the fewest modelled cycles for a whole patch, and tasks that share evenly."""
    rows, columns = geometry.effective_patch
    channels = geometry.out_channels // geometry.groups
    # LLVM keeps input values that several taps read, so half of the registers at most can hold sums.
    sums = unit.registers // 2 if geometry.kernel[1] > 1 else unit.registers

    def cost(tile: RegisterTile) -> float:
        tiles = math.ceil(rows / tile.rows) * math.ceil(columns / tile.columns) * math.ceil(channels / tile.channels)
        return tiles * (product_cycles(geometry, tile) + _CYCLES_PER_LOAD * loads(geometry, tile))

    candidates = register_tiles(rows, columns, channels, unit)
    tile = min((tile for tile in candidates if tile.pixels * tile.vectors <= sums), key=cost)
    patches = batch * geometry.patch_grid[0] * geometry.patch_grid[1] * geometry.groups
    filter_bytes = geometry.in_channels * channels * geometry.taps * tile.element.bytes
    kept = kept_images(geometry, unit.lanes, threads)
    whole = filter_bytes < unit.l2_bytes // 2 and patches >= 4 * threads
    return HasteTiling(tile, math.ceil(channels / tile.channels) if whole else 1, unit.lanes, kept)


def product_cycles(geometry: ConvGeometry, tile: RegisterTile) -> float:
    """Cycles of one channel's products in a register tile: two vectors a cycle.

    With four cycles latency, fewer than eight sums leave the units idle.
    """
    return geometry.taps * max(tile.pixels * tile.vectors / 2, 4.0)


def loads(geometry: ConvGeometry, tile: RegisterTile) -> int:
    """Loads of one channel in a register tile: an input value for all the taps that it meets, a vector of filters for
    all the pixels.
    """
    (kh, kw), (dh, dw), (sh, sw) = geometry.kernel, geometry.dilation, geometry.stride
    values = ((tile.rows - 1) * sh + (kh - 1) * dh + 1) * ((tile.columns - 1) * sw + (kw - 1) * dw + 1)
    return values + geometry.taps * tile.vectors
