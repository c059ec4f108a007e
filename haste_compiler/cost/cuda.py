"""The cost model of a card: what its arithmetic and its memory allow, from the manufacturer's figures.

Nothing here was measured. A dense convolution takes as long as its products or its traffic; a HASTE convolution besides
launches eight kernels to group, reads its windows several times, compares every channel with every other by one
multiprocessor, and reads and writes filters for every group, which for small patches alone takes longer than the
convolution. So HASTE pays for large patches of many images, if at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm.target import Target

from haste_compiler.codegen.cuda.kernels.winograd import CardWinograd, winograd_choices
from haste_compiler.codegen.cuda.target import generation, processors
from haste_compiler.codegen.cuda.tiling import Precision
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.found import Merging

_TERA = 1e12
_LAUNCH_SECONDS = 3e-6
_REACHED = 0.6
"""Share of a figure that a good kernel reaches."""

_GROUP_LAUNCHES = 8

_PAIRS = 1e10
"""Pairs of channels that one multiprocessor compares in a second: some ten instructions each for 128 threads."""


@dataclass(frozen=True)
class CardFigures:
    """A generation's figures: products a second (two operations each) by precision, and bytes a second."""

    products: dict[Precision, float]
    memory: float
    cache: float


_FIGURES = {
    80: CardFigures({"fp32": 9.7 * _TERA, "tf32": 78 * _TERA, "bf16": 156 * _TERA}, 1.5 * _TERA, 4 * _TERA),
    90: CardFigures({"fp32": 33 * _TERA, "tf32": 247 * _TERA, "bf16": 494 * _TERA}, 3.3 * _TERA, 5.5 * _TERA),
}
"""Of the A100 and the H100."""


@dataclass(frozen=True)
class CudaCostModel:
    """Predicts times on a card; it has the methods of ``CostModel``."""

    figures: CardFigures
    processors: int
    precision: Precision

    @classmethod
    def of(cls, target: Target, precision: Precision) -> CudaCostModel:
        """The model for a CUDA target."""
        return cls(_FIGURES[90 if generation(target) >= 90 else 80], processors(target), precision)

    def dense(self, geometry: ConvGeometry, batch: int, winograd: int = 0) -> float:
        """Seconds of the dense convolution, by Winograd's algorithm with tiles up to ``winograd`` if that is faster."""
        choices = winograd_choices(geometry, batch, winograd) if self.precision == "fp32" else []
        return min([self._product(geometry, batch, 1.0), *map(self._winograd, choices)])

    def _winograd(self, winograd: CardWinograd) -> float:
        geometry = winograd.geometry
        products = winograd.tiles * winograd.positions * geometry.in_channels * geometry.out_channels
        inputs = math.prod(geometry.input_size) * geometry.in_channels
        outputs = math.prod(geometry.output_size) * geometry.out_channels
        traffic = winograd.traffic + 4 * winograd.batch * (inputs + outputs)
        seconds = products / self.figures.products["fp32"] + traffic / self.figures.memory
        return 3 * _LAUNCH_SECONDS + seconds / _REACHED

    def group(self, geometry: ConvGeometry, batch: int, planes: int, nonzeros: int | None, merging: Merging) -> float:
        """Seconds of reading, hashing, grouping and merging windows, with ``planes`` hyperplanes in use."""
        patches, channels = batch * geometry.patch_grid[0] * geometry.patch_grid[1], geometry.in_channels
        values = patches * geometry.window_pixels * channels
        members = merging.total.members / merging.total.channels
        # Once for the sums; members twice to be merged, for products and for what is lost; what is kept is copied.
        reads = values * (1 + 6 * members + 2 * merging.kept)
        # The table has a factor for every hyperplane and pixel, zero or not.
        products = values * (2 + planes)
        waves = -(-patches * geometry.groups // self.processors)
        pairs = 2 * waves * (channels / geometry.groups) ** 2
        return (
            _GROUP_LAUNCHES * _LAUNCH_SECONDS
            + 4 * reads / (_REACHED * self.figures.cache)
            + products / (_REACHED * self.figures.products["fp32"])
            + pairs / _PAIRS
        )

    def convolve(self, geometry: ConvGeometry, batch: int, skip: str, merging: Merging) -> float:
        """Seconds of merging the filters and convolving what is left."""
        patches = batch * geometry.patch_grid[0] * geometry.patch_grid[1]
        filters = 4 * geometry.out_channels * geometry.taps * geometry.in_channels / geometry.groups
        found = merging.total
        # Every member's filters are read, every group's written and read again.
        moved = (found.members + found.flats + 2 * found.groups) / found.channels
        traffic = patches * filters * moved / self.figures.cache
        return 2 * _LAUNCH_SECONDS + traffic + self._product(geometry, batch, merging.kept)

    def _product(self, geometry: ConvGeometry, batch: int, kept: float) -> float:
        products = batch * geometry.dense_macs * kept / (_REACHED * self.figures.products[self.precision])
        pixels = math.prod(geometry.input_size) * geometry.in_channels * kept
        outputs = math.prod(geometry.output_size) * geometry.out_channels
        filters = geometry.out_channels * geometry.taps * geometry.in_channels / geometry.groups
        traffic = 4 * (batch * (pixels + outputs) + filters) / (_REACHED * self.figures.memory)
        return _LAUNCH_SECONDS + max(products, traffic)
