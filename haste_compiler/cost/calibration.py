"""Fitting the cost model to a machine, once: real kernels, timed on inputs whose channels are known to merge."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from tvm.target import Target

from haste_compiler.codegen.build import cache_directory, cache_key
from haste_compiler.codegen.target import VectorUnit, missing_features, vector_unit
from haste_compiler.cost.features import Features, convolve_features, dense_features, group_features
from haste_compiler.cost.kernels import KernelTimer
from haste_compiler.cost.merging import Merging, borders
from haste_compiler.cost.model import PHASES, CostModel
from haste_compiler.cost.nnls import nonnegative_least_squares
from haste_compiler.haste.geometry import ConvGeometry
from haste_compiler.haste.settings import Settings

_ROUNDS = 11


def _square(channels: int, filters: int, side: int, patch: int, kernel: int = 3, stride: int = 1) -> ConvGeometry:
    around = (kernel // 2,) * 4
    return ConvGeometry(
        channels, filters, (kernel, kernel), (stride, stride), around, (1, 1), 1, (side, side), (patch, patch)
    )


_BOTH = (
    _square(64, 64, 56, 8),
    _square(128, 128, 28, 7),
    _square(256, 256, 14, 7),
    _square(512, 512, 7, 7),
    _square(32, 48, 24, 8),
    _square(128, 128, 8, 8),
    _square(256, 256, 4, 4),
    _square(64, 128, 27, 9, kernel=5),
    _square(128, 64, 14, 7, kernel=1),
)
"""Convolutions that are timed dense and as HASTE convolutions: large maps and small, few filters and many."""

_DENSE = (
    _square(64, 64, 112, 8),
    _square(256, 256, 28, 7),
    _square(512, 512, 14, 7),
    _square(128, 32, 28, 7),
    _square(128, 256, 28, 7, stride=2),
    _square(512, 512, 2, 2),
    _square(40, 72, 20, 7),
)
"""Convolutions that are timed dense only."""


@dataclass(frozen=True)
class _State:
    """An input of calibration: shares of its channels that are flat, or copies in groups of ``size``; the settings."""

    flats: float = 0.0
    copies: float = 0.0
    size: int = 2
    planes: int = 10
    tolerance: float = 0.3


_STATES = (
    _State(),
    _State(flats=0.5),
    _State(flats=0.9),
    _State(copies=0.5),
    _State(copies=0.9, size=4),
    _State(flats=0.25, copies=0.25),
    _State(planes=4),
    _State(planes=20),
    _State(copies=0.5, planes=4, tolerance=math.inf),
)


@dataclass
class Samples:
    """Measured calls of one kernel: the work of each, and its seconds."""

    features: list[Features] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, features: Features, seconds: float) -> None:
        """Add one measurement."""
        self.features.append(features)
        self.seconds.append(seconds)

    def fit(self, phases: tuple[str, ...]) -> dict[str, float]:
        """Coefficients, none negative, with the least sum of squared relative errors."""
        work = np.array([[features[phase] for phase in phases] for features in self.features])
        seconds = np.array(self.seconds)
        found = nonnegative_least_squares(work / seconds[:, None], np.ones(len(seconds)))
        return {phase: float(value) for phase, value in zip(phases, found, strict=True)}


def cost_model(target: Target, threads: int) -> CostModel:
    """The cost model of a target: calibrated on this machine, kept on disk; for code that can't run here, the default.

    The file in the cache directory belongs to one target, number of threads and version of this package; if it is
    damaged, the machine is measured again (some ten seconds, with a progress bar).
    """
    unit = vector_unit(target)
    if missing_features(target):
        return default_model(unit, threads)
    path = cache_directory() / f"costs-{cache_key('', target, threads)}.json"
    return _calibrated(target, threads, path)


@lru_cache(maxsize=8)
def _calibrated(target: Target, threads: int, path: Path) -> CostModel:
    seconds = _read(path)
    if seconds is None:
        seconds = calibrate(target, threads)
        _write(path, seconds)
    return CostModel(vector_unit(target), threads, seconds, "calibrated on this machine")


def default_model(unit: VectorUnit, threads: int) -> CostModel:
    """Coefficients that came with the package, for the vector unit nearest to ``unit``."""
    stored = json.loads((Path(__file__).parent / "defaults.json").read_text())
    seconds = stored["lanes"][str(min((4, 8, 16), key=lambda lanes: abs(lanes - unit.lanes)))]
    return CostModel(unit, threads, seconds, "defaults of the package")


def calibrate(target: Target, threads: int) -> dict[str, dict[str, float]]:
    """Measure, with a progress bar: seconds for a unit of work, by kernel, then by phase."""
    samples = measure(target, threads)
    return {kernel: samples[kernel].fit(phases) for kernel, phases in PHASES.items()}


def measure(target: Target, threads: int) -> dict[str, Samples]:
    """Build and time the kernels of the designed set; the measurements by kernel."""
    samples = {kernel: Samples() for kernel in PHASES}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("calibrating the cost model", total=len(_BOTH) + len(_DENSE))
        for geometry in (*_BOTH, *_DENSE):
            _measure(geometry, target, threads, samples, haste=geometry in _BOTH)
            progress.advance(task)
    return samples


def _measure(geometry: ConvGeometry, target: Target, threads: int, samples: dict[str, Samples], *, haste: bool) -> None:
    unit, timer = vector_unit(target), KernelTimer(geometry, 1, target, threads, haste=haste)
    samples["dense"].add(
        dense_features(geometry, 1, unit, threads), min(timer.time(("dense",))[0] for _ in range(_ROUNDS))
    )
    for state in _STATES if haste else ():
        timer.set_input(make_input(geometry, state.flats, state.copies, state.size))
        settings = Settings(state.planes, state.tolerance, 0.1)
        merging = Merging(_counts(timer, settings), borders(geometry))
        times = np.array([timer.time(("group", "convolve")) for _ in range(_ROUNDS)]).min(axis=0)
        samples["group"].add(group_features(geometry, 1, unit, threads, state.planes, merging), times[0])
        samples["convolve"].add(convolve_features(geometry, 1, unit, threads, "flat", merging), times[1])


def _counts(timer: KernelTimer, settings: Settings) -> NDArray[np.float64]:
    """What the kernel counts, and how many channels it merged: all candidates, and those left of a group once more."""
    candidates = timer.group(settings._replace(tolerance=math.inf)).numpy()[:, 2].copy()
    counts = timer.group(settings).numpy()
    members = counts[:, 2]
    again = np.where(candidates > members, members, 0)
    return np.column_stack([counts[:, :5], candidates + again])


def make_input(geometry: ConvGeometry, flats: float, copies: float, size: int) -> Tensor:
    """An image (1, H, W, C) of noise of which some channels are flat, and others copies in groups of ``size``."""
    generator = torch.Generator().manual_seed(0)
    channels = geometry.in_channels
    x = torch.randn(channels, *geometry.input_size, generator=generator)
    copied, flat = round(copies * channels), round(flats * channels)
    x[:copied] = x[torch.arange(copied) // size * size]
    # Far from flat next to each other, so that no two of them look alike.
    x[channels - flat :] = 1 + 1e-3 * x[channels - flat :]
    # Kinds take turns, as they do in a network.
    order = torch.randperm(channels, generator=generator)
    return x[order].permute(1, 2, 0).unsqueeze(0).contiguous()


def _read(path: Path) -> dict[str, dict[str, float]] | None:
    """What ``_write`` wrote; None where there is nothing, or something else."""
    try:
        stored: Any = json.loads(path.read_text())
        seconds = {
            kernel: {phase: float(stored[kernel][phase]) for phase in phases} for kernel, phases in PHASES.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    valid = all(math.isfinite(value) and value >= 0 for phases in seconds.values() for value in phases.values())
    return seconds if valid else None


def _write(path: Path, seconds: dict[str, dict[str, float]]) -> None:
    """Write to a temporary file first: another process may read meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(seconds, indent=1))
        os.replace(made, path)
    except OSError:
        # A cache that can't be written costs time at the next start, nothing else.
        return
