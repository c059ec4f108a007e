"""The cost model: seconds of a dense and of a HASTE convolution, as a sum of phases, one coefficient each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import WinogradTiling
from haste_compiler.cost.features import (
    CONVOLVE,
    DENSE,
    GROUP,
    WINOGRAD,
    Features,
    convolve_features,
    dense_features,
    group_features,
    winograd_features,
)
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.found import Merging

PHASES: Mapping[str, tuple[str, ...]] = {
    "dense": DENSE,
    "winograd": WINOGRAD,
    "group": GROUP,
    "convolve": CONVOLVE,
}
"""The phases of every kernel that is predicted."""


@dataclass(frozen=True)
class CostModel:
    """Predicts times on one machine.

    Attributes:
        unit: the vector unit.
        threads: threads that work on a kernel.
        seconds: by kernel ("dense", "winograd", "group", "convolve"), then by phase: seconds for one unit of that
            phase's work.
        source: where the coefficients come from, in words.
    """

    unit: VectorUnit
    threads: int
    seconds: Mapping[str, Mapping[str, float]]
    source: str

    def dense(self, geometry: ConvGeometry, batch: int, winograd: int) -> float:
        """Seconds of the dense convolution, with Winograd's tiles up to so large where they are chosen."""
        return self._sum(*dense_work(geometry, batch, self.unit, self.threads, winograd))

    def group(self, geometry: ConvGeometry, batch: int, planes: int, nonzeros: int | None, merging: Merging) -> float:
        """Seconds of reading, hashing, grouping and merging windows, with ``planes`` hyperplanes in use."""
        return self._sum("group", group_features(geometry, batch, self.unit, self.threads, planes, nonzeros, merging))

    def convolve(self, geometry: ConvGeometry, batch: int, skip: str, merging: Merging) -> float:
        """Seconds of merging filters and convolving what is left."""
        return self._sum("convolve", convolve_features(geometry, batch, self.unit, self.threads, skip, merging))

    def _sum(self, kernel: str, features: Features) -> float:
        return math.fsum(self.seconds[kernel][phase] * units for phase, units in features.items())


def dense_work(
    geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, winograd: int
) -> tuple[str, Features]:
    """The kernel that computes a dense convolution, and the work of one call by phase."""
    tiling = choose_dense(geometry, batch, unit, threads, winograd)
    if isinstance(tiling, WinogradTiling):
        return "winograd", winograd_features(geometry, batch, tiling, unit, threads)
    return "dense", dense_features(geometry, batch, tiling, unit, threads)
