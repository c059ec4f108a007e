"""Fitting the cost model to a machine, once: real kernels, timed on inputs whose channels are known to merge."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from haste_compiler.cache.entries import read_json, write_json, written
from haste_compiler.cache.location import cache_directory
from haste_compiler.codegen.build import cache_key
from haste_compiler.codegen.cpu.cost import PHASES, SHARED, CostModel, Features, dense_work
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.machine import Machine
from haste_compiler.cost.contention import Contention, timed
from haste_compiler.cost.kernels import KernelTimer, TimedKernels
from haste_compiler.cost.nnls import nonnegative_least_squares
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.interrupts import check_interrupt
from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.methods.registry import methods
from haste_compiler.progress import progress

log = logging.getLogger(__name__)

_ROUNDS = 7
_REFITS = 6
_SMALL_ERROR = 0.02

_MOST_DISTURBED = 0.1
"""Share of the measurements that may have been disturbed in every round: coefficients are fitted past a few."""

_MOST_BUILDERS = 4
"""Threads that build kernels: more would wait for the largest."""

_BUSY_SECONDS = 3600.0
"""How long a machine that was found busy isn't measured again: every new process would wait for it, for nothing."""

Seconds = dict[str, dict[str, float]]
"""Coefficients: by kernel, then by phase."""


def _square(channels: int, filters: int, side: int, kernel: int = 3, stride: int = 1) -> ConvGeometry:
    around = (kernel // 2,) * 4
    return ConvGeometry(channels, filters, (kernel, kernel), (stride, stride), around, (1, 1), 1, (side, side), (1, 1))


_DENSE = (
    _square(256, 256, 28),
    _square(64, 128, 112, stride=2),
    _square(128, 256, 28, stride=2),
    _square(256, 512, 28, stride=2),
    _square(64, 64, 28, kernel=5),
    _square(256, 64, 56, kernel=1),
    _square(512, 512, 2),
    _square(40, 72, 20),
)
"""Convolutions that are timed besides those of the methods."""


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
    columns = sorted({_column(kernel, phase) for kernel, phases in phases().items() for phase in phases})
    matrix = np.zeros((len(samples), len(columns)))
    for row, sample in zip(matrix, samples, strict=True):
        for phase in phases()[sample.kernel]:
            row[columns.index(_column(sample.kernel, phase))] = sample.work[phase] / sample.seconds
    weight = np.ones(len(samples))
    for _ in range(_REFITS):
        found = nonnegative_least_squares(matrix * weight[:, None], weight)
        weight = 1 / np.sqrt(np.maximum(abs(matrix @ found - 1), _SMALL_ERROR))
    return {
        kernel: {phase: float(found[columns.index(_column(kernel, phase))]) for phase in phases}
        for kernel, phases in phases().items()
    }


@lru_cache(maxsize=1)
def phases() -> dict[str, tuple[str, ...]]:
    """The phases of every kernel that is predicted: the plain ones', and the methods' own."""
    return {**PHASES, **{kernel: names for method in methods() for kernel, names in method.phases().items()}}


def _column(kernel: str, phase: str) -> str:
    """The unknown that a kernel's phase is measured in."""
    return f"shared {phase}" if phase in SHARED else f"{kernel} {phase}"


def cost_model(machine: Machine) -> Any:
    """The cost model of a machine: its figures, or calibrated here, kept on disk; for code that can't run here, the
    package's numbers.

    The file in the cache belongs to one target, number of threads and version of this package; if it is
    damaged, the machine is measured again (some seconds, with a progress bar). What several threads took on a
    machine that is busy with something else is not kept: the default is used for an hour, with a warning, before the
    machine is measured again.
    """
    figures = machine.figures()
    if figures is not None:
        return figures
    assert isinstance(machine, Cpu)
    if machine.missing():
        return default_model(machine.unit, machine.threads)
    name = costs_file(machine)
    path = cache_directory() / name
    if path not in _models:
        _models[path] = _calibrated(machine, name)
    return _models[path]


def guess(machine: Machine) -> Any:
    """The package's numbers, where ``cost_model`` would measure the machine first; None where it wouldn't."""
    if machine.figures() is not None or machine.missing():
        return None
    assert isinstance(machine, Cpu)
    name = costs_file(machine)
    if cache_directory() / name in _models or _read(name) is not None:
        return None
    return default_model(machine.unit, machine.threads)


def costs_file(machine: Machine) -> str:
    """The name in the cache of the coefficients that were measured for a machine."""
    return f"costs-{cache_key('', machine)}.json"


_models: dict[Path, CostModel] = {}
"""Of this process, by file: two equal ``Target`` objects have different hashes."""


def _calibrated(machine: Cpu, name: str) -> CostModel:
    seconds, threads = _read(name), machine.threads
    if seconds is None:
        busy, default = name.replace(".json", ".busy"), default_model(machine.unit, threads)
        if _is_recent(busy):
            log.info("this machine was busy when it was measured: until %s is an hour old, it isn't again", busy)
            return default
        contention = Contention()
        seconds = fit(measure(machine, contention))
        # A single thread's own clock doesn't count what other processes take from it.
        if threads > 1 and contention.share > _MOST_DISTURBED:
            log.warning(
                "this machine is busy: what %d threads took isn't kept, for an hour the package's numbers decide what "
                "merges",
                threads,
            )
            write_json(busy, {"busy": True})
            return default
        write_json(name, seconds)
    return CostModel(machine.unit, threads, seconds, "calibrated on this machine")


def _is_recent(name: str) -> bool:
    then = written(name)
    return then is not None and abs(time.time() - then) < _BUSY_SECONDS


def default_model(unit: VectorUnit, threads: int) -> CostModel:
    """Coefficients that came with the package, for the vector unit nearest to ``unit``."""
    stored = json.loads((Path(__file__).parent / "defaults.json").read_text())
    seconds = stored["lanes"][str(min((4, 8, 16), key=lambda lanes: abs(lanes - unit.lanes)))]
    return CostModel(unit, threads, seconds, "defaults of the package")


def measure(machine: Cpu, contention: Contention) -> list[Sample]:
    """Build and time the kernels of the designed set, showing progress.

    Args:
        machine: the CPU.
        contention: notes in which measurements threads waited for a core.
    """
    trials = [trial for method in methods() for trial in method.calibration(machine)]
    sets = [TimedKernels(machine, trial.geometry, trial) for trial in trials]
    sets += [TimedKernels(machine, geometry) for geometry in _DENSE]
    samples: list[Sample] = []
    with progress("calibrating the cost model") as tick:
        said = f"{machine.threads} threads, once on this machine, some seconds"
        tick(said, 0.0)
        # All are built before any is timed: a kernel that is timed has the machine to itself.
        # Closed at once by an interrupt: what isn't being built by then isn't built.
        with contextlib.closing(_built(sets)) as built:
            for number, _ in enumerate(built, 1):
                check_interrupt()
                tick(said, number / len(sets))
        for kernels in sets:
            check_interrupt()
            samples += _measure(kernels, contention)
    return samples


def _built(sets: Sequence[TimedKernels]) -> Generator[TimedKernels, None, None]:
    """Kernels in order, each set when it is built; several are at a time."""
    with ThreadPoolExecutor(min(_MOST_BUILDERS, os.cpu_count() or 1)) as pool:
        yield from pool.map(TimedKernels.build, sets)


def _measure(kernels: TimedKernels, contention: Contention) -> Iterator[Sample]:
    """The samples of one convolution. The plain kernel and a method's take turns: a slow spell hits both."""
    machine, trial = kernels.machine, kernels.trial
    dense = dense_work(kernels.geometry, 1, machine.unit, machine.threads, max(WINOGRAD_SIZES))
    timer = KernelTimer(kernels)
    states = trial.states if trial else [{}]
    works = []
    for state in states:
        timer.set(state)
        if trial is not None:
            works.append(trial.work(state, timer.run_once()))
    names = ("dense", *(trial.kernels if trial else ()))
    times, waited = np.empty((_ROUNDS, len(states), len(names))), np.empty((_ROUNDS, len(states)))
    for i, j in np.ndindex(waited.shape):
        timer.set(states[j])
        times[i, j], waited[i, j] = timed(lambda: timer.time(names))
    for of_state in waited.T.tolist():
        contention.note(of_state)
    best = times.min(axis=0)
    yield Sample(*dense, float(np.median(best[:, 0])))
    if trial is None:
        return
    for work, found in zip(works, best.tolist(), strict=True):
        for name, seconds in zip(names[1:], found[1:], strict=True):
            yield Sample(name, dict(work[name]), seconds)


def _read(name: str) -> Seconds | None:
    """What ``write_json`` kept; None where there is nothing, or something else."""
    try:
        stored = read_json(name)
        seconds = {
            kernel: {phase: float(stored[kernel][phase]) for phase in phases} for kernel, phases in phases().items()
        }
    except (ValueError, KeyError, TypeError):
        return None
    valid = all(math.isfinite(value) and value >= 0 for phases in seconds.values() for value in phases.values())
    return seconds if valid else None
