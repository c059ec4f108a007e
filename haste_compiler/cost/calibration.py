"""Fitting the cost model to a machine, once: real kernels, timed on inputs whose channels are known to merge."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from tvm.target import Target

from haste_compiler.codegen.build import cache_directory, cache_key, write_cached
from haste_compiler.codegen.cpu.target import VectorUnit, missing_features, vector_unit
from haste_compiler.cost.contention import seconds_waited
from haste_compiler.cost.features import SHARED, Features, convolve_features, group_features
from haste_compiler.cost.kernels import KernelTimer
from haste_compiler.cost.model import PHASES, CostModel, dense_work
from haste_compiler.cost.nnls import nonnegative_least_squares
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import WINOGRAD_SIZES
from haste_compiler.methods.haste.found import Merging, borders
from haste_compiler.methods.haste.settings import Settings

log = logging.getLogger(__name__)

_ROUNDS = 7
_REFITS = 6
_SMALL_ERROR = 0.02

_MOST_WAITED = 0.03
"""Share of the time that threads may have waited for a core while they were measured."""

_BUSY_SECONDS = 3600.0
"""How long a machine that was found busy isn't measured again: every new process would wait for it, for nothing."""

Seconds = dict[str, dict[str, float]]
"""Coefficients: by kernel, then by phase."""


def _square(channels: int, filters: int, side: int, patch: int, kernel: int = 3, stride: int = 1) -> ConvGeometry:
    around = (kernel // 2,) * 4
    return ConvGeometry(
        channels, filters, (kernel, kernel), (stride, stride), around, (1, 1), 1, (side, side), (patch, patch)
    )


_BOTH = (
    _square(64, 64, 56, 8),
    _square(64, 64, 112, 8),
    _square(128, 128, 28, 7),
    _square(256, 256, 14, 7),
    _square(512, 512, 14, 7),
    _square(512, 512, 7, 7),
    _square(16, 16, 8, 8),
    _square(32, 48, 24, 8),
    _square(128, 128, 8, 8),
    _square(256, 256, 4, 4),
    _square(64, 128, 27, 9, kernel=5),
    _square(128, 64, 14, 7, kernel=1),
)
"""Convolutions that are timed dense and as HASTE convolutions: large maps and small, few filters and many."""

_DENSE = (
    _square(256, 256, 28, 7),
    _square(128, 32, 28, 7),
    _square(64, 128, 112, 7, stride=2),
    _square(128, 256, 28, 7, stride=2),
    _square(256, 512, 28, 7, stride=2),
    _square(64, 64, 28, 7, kernel=5),
    _square(256, 64, 56, 7, kernel=1),
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


@dataclass(frozen=True)
class Sample:
    """One measurement: the kernel, the work of one call by phase, and its seconds."""

    kernel: str
    work: Features
    seconds: float


def fit(samples: Sequence[Sample]) -> Seconds:
    """Coefficients, none negative, with small relative errors; the phases that kernels share have one coefficient.

    Least squares, repeated with less weight on what fits badly: a call that something else slowed down counts little.
    """
    columns = sorted({_column(kernel, phase) for kernel, phases in PHASES.items() for phase in phases})
    matrix = np.zeros((len(samples), len(columns)))
    for row, sample in zip(matrix, samples, strict=True):
        for phase in PHASES[sample.kernel]:
            row[columns.index(_column(sample.kernel, phase))] = sample.work[phase] / sample.seconds
    weight = np.ones(len(samples))
    for _ in range(_REFITS):
        found = nonnegative_least_squares(matrix * weight[:, None], weight)
        weight = 1 / np.sqrt(np.maximum(abs(matrix @ found - 1), _SMALL_ERROR))
    return {
        kernel: {phase: float(found[columns.index(_column(kernel, phase))]) for phase in phases}
        for kernel, phases in PHASES.items()
    }


def _column(kernel: str, phase: str) -> str:
    """The unknown that a kernel's phase is measured in."""
    return f"shared {phase}" if kernel != "group" and phase in SHARED else f"{kernel} {phase}"


def cost_model(target: Target, threads: int) -> CostModel:
    """The cost model of a target: calibrated on this machine, kept on disk; for code that can't run here, the default.

    The file in the cache directory belongs to one target, number of threads and version of this package; if it is
    damaged, the machine is measured again (some ten seconds, with a progress bar). What several threads took on a
    machine that is busy with something else is not kept: the default is used for an hour, with a warning, before the
    machine is measured again.
    """
    unit = vector_unit(target)
    if missing_features(target):
        return default_model(unit, threads)
    path = costs_file(target, threads)
    if path not in _models:
        _models[path] = _calibrated(target, threads, path)
    return _models[path]


def costs_file(target: Target, threads: int) -> Path:
    """Where the coefficients that were measured for a target are kept."""
    return cache_directory() / f"costs-{cache_key('', target, threads)}.json"


_models: dict[Path, CostModel] = {}
"""Of this process, by file: two equal ``Target`` objects have different hashes."""


def _calibrated(target: Target, threads: int, path: Path) -> CostModel:
    seconds = _read(path)
    if seconds is None:
        busy, default = path.with_suffix(".busy"), default_model(vector_unit(target), threads)
        if _is_recent(busy):
            log.info("this machine was busy when it was measured: until %s is an hour old, it isn't again", busy)
            return default
        start, before = time.perf_counter(), seconds_waited()
        seconds = calibrate(target, threads)
        # A single thread's own clock doesn't count what other processes take from it.
        if threads > 1 and _was_busy(before, seconds_waited(), time.perf_counter() - start):
            log.warning(
                "this machine is busy: what %d threads took isn't kept, for an hour the package's numbers decide what "
                "merges",
                threads,
            )
            write_cached(busy, {"busy": True})
            return default
        write_cached(path, seconds)
    return CostModel(vector_unit(target), threads, seconds, "calibrated on this machine")


def _is_recent(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) < _BUSY_SECONDS
    except OSError:
        return False


def _was_busy(before: float | None, after: float | None, elapsed: float) -> bool:
    return before is not None and after is not None and after - before > _MOST_WAITED * elapsed


def default_model(unit: VectorUnit, threads: int) -> CostModel:
    """Coefficients that came with the package, for the vector unit nearest to ``unit``."""
    stored = json.loads((Path(__file__).parent / "defaults.json").read_text())
    seconds = stored["lanes"][str(min((4, 8, 16), key=lambda lanes: abs(lanes - unit.lanes)))]
    return CostModel(unit, threads, seconds, "defaults of the package")


def calibrate(target: Target, threads: int) -> Seconds:
    """Measure and fit: seconds for a unit of work, by kernel, then by phase."""
    return fit(measure(target, threads))


def measure(target: Target, threads: int) -> list[Sample]:
    """Build and time the kernels of the designed set, with a progress bar."""
    samples: list[Sample] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("calibrating the cost model", total=len(_BOTH) + len(_DENSE))
        for geometry in (*_BOTH, *_DENSE):
            states = _STATES if geometry in _BOTH else ()
            samples += _measure(geometry, states, KernelTimer(geometry, 1, target, threads, haste=bool(states)))
            progress.advance(task)
    return samples


def _measure(geometry: ConvGeometry, states: Sequence[_State], timer: KernelTimer) -> Iterator[Sample]:
    """The samples of one convolution. Dense and HASTE take turns: a slow spell of the machine hits both."""
    unit, threads = timer.unit, timer.threads
    dense = dense_work(geometry, 1, unit, threads, max(WINOGRAD_SIZES))
    if not states:
        yield Sample(*dense, min(timer.time(("dense",)) for _ in range(_ROUNDS))[0])
        return
    inputs = [make_input(geometry, state.flats, state.copies, state.size) for state in states]
    settings = [Settings(state.planes, state.tolerance, 0.1) for state in states]
    border = borders(geometry)
    merging = [Merging(timer.counts(x, each), border) for x, each in zip(inputs, settings, strict=True)]
    times = np.empty((_ROUNDS, len(states), 3))
    for i in range(_ROUNDS):
        for j, (x, each) in enumerate(zip(inputs, settings, strict=True)):
            timer.set(x, each)
            times[i, j] = timer.time(("dense", "group", "convolve"))
    best = times.min(axis=0)
    yield Sample(*dense, float(np.median(best[:, 0])))
    for state, found, (_, group, convolve) in zip(states, merging, best.tolist(), strict=True):
        yield Sample("group", group_features(geometry, 1, unit, threads, state.planes, None, found), group)
        yield Sample("convolve", convolve_features(geometry, 1, unit, threads, "flat", found), convolve)


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


def _read(path: Path) -> Seconds | None:
    """What ``write_cached`` wrote; None where there is nothing, or something else."""
    try:
        stored: Any = json.loads(path.read_text())
        seconds = {
            kernel: {phase: float(stored[kernel][phase]) for phase in phases} for kernel, phases in PHASES.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    valid = all(math.isfinite(value) and value >= 0 for phases in seconds.values() for value in phases.values())
    return seconds if valid else None
