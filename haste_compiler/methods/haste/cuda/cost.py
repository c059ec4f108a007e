"""What HASTE takes on a card, from what its arithmetic and its memory allow.

Nothing here was measured. Beside the convolution itself, eight kernels are launched to group, windows are read several
times, every channel is compared with every other by one multiprocessor, and filters are read and written for every
group, which for small patches alone takes longer than the convolution. So HASTE pays for large patches of many images,
if at all.
"""

from __future__ import annotations

from haste_compiler.codegen.cuda.cost import LAUNCH_SECONDS, REACHED, CudaCostModel
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.found import Merging

_GROUP_LAUNCHES = 8

_PAIRS = 1e10
"""Pairs of channels that one multiprocessor compares in a second: some ten instructions each for 128 threads."""


def group(model: CudaCostModel, geometry: ConvGeometry, batch: int, config: HasteConfig, merging: Merging) -> float:
    """Seconds of reading, hashing, grouping and merging windows."""
    patches, channels = batch * geometry.patch_grid[0] * geometry.patch_grid[1], geometry.in_channels
    values = patches * geometry.window_pixels * channels
    members = merging.total.members / merging.total.channels
    # Once for the sums; members twice to be merged, for products and for what is lost; what is kept is copied.
    reads = values * (1 + 6 * members + 2 * merging.kept)
    # The table has a factor for every hyperplane and pixel, zero or not.
    products = values * (2 + config.num_hyperplanes)
    waves = -(-patches * geometry.groups // model.processors)
    pairs = 2 * waves * (channels / geometry.groups) ** 2
    return (
        _GROUP_LAUNCHES * LAUNCH_SECONDS
        + FLOAT32.bytes * reads / (REACHED * model.figures.cache)
        + products / (REACHED * model.figures.products["fp32"])
        + pairs / _PAIRS
    )


def convolve(model: CudaCostModel, geometry: ConvGeometry, batch: int, config: HasteConfig, merging: Merging) -> float:
    """Seconds of merging the filters and convolving what is left."""
    patches = batch * geometry.patch_grid[0] * geometry.patch_grid[1]
    filters = FLOAT32.bytes * geometry.out_channels * geometry.taps * geometry.in_channels / geometry.groups
    found = merging.total
    # Every member's filters are read, every group's written and read again.
    moved = (found.members + found.flats + 2 * found.groups) / found.channels
    traffic = patches * filters * moved / model.figures.cache
    return 2 * LAUNCH_SECONDS + traffic + model.product(geometry, batch, merging.kept)
