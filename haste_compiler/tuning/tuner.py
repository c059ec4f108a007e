"""``Tuner``: for every dense convolution and linear layer, the few tilings that the model ranks best, timed."""

from __future__ import annotations

from functools import partial

from torch import fx

from haste_compiler.cache.entries import read_json, write_json
from haste_compiler.codegen.build import cache_key
from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, dense_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.tiling import choose_tiling, register_tiles, tile_cost
from haste_compiler.codegen.cpu.winograd_tiling import winograd_tilings
from haste_compiler.codegen.job import Job
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.walk import lower
from haste_compiler.errors import TargetError
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from haste_compiler.methods.registry import rules_for
from haste_compiler.tuning.device import Device, LocalDevice
from haste_compiler.tuning.jobs import time_jobs
from haste_compiler.tuning.tuning import DenseWork, Measured, Tuning, read_layers, write_layers

_CANDIDATES = 8
_WINOGRAD_CANDIDATES = 3


class Tuner:
    """Measures tilings, and remembers.

    Results are kept in the cache, one file for each target, number of threads and version of this package.

    Args:
        machine: what the code is for; ``device`` must be able to run it.
        device: what measures.
    """

    def __init__(self, machine: Cpu, device: Device) -> None:
        self._machine, self._device = machine, device
        self._file = f"tuning-{cache_key('', machine)}.json"
        self._known = _read(self._file)

    def tune(self, gm: fx.GraphModule, deadline: float) -> Tuning:
        """Measure every dense convolution and linear layer of a graph that isn't known yet, with a progress bar.

        Args:
            gm: what ``run_passes`` returned.
            deadline: by ``time.monotonic``; what isn't begun by then is left to the model.

        Raises:
            TuningError: the device gave up; what was measured until then is kept.
        """
        works: dict[DenseWork, None] = {}
        modelled = self._machine.choose_tiling

        def collect(geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
            if not geometry.is_depthwise:
                works[DenseWork.of(geometry, batch, winograd)] = None
            return modelled(geometry, batch, winograd)

        lower(gm, self._machine.with_tilings(collect), rules_for(self._machine))
        candidates = {work: self._candidates(work) for work in works if work not in self._known}
        jobs = {work: partial(_job, work, tilings) for work, tilings in candidates.items()}
        try:
            for work, seconds in time_jobs(jobs, self._device, self._machine.target, deadline, "tuning tilings"):
                best, first = min(seconds, key=seconds.__getitem__), next(iter(seconds))
                tiling = candidates[work][int(best.removeprefix("k"))]
                self._known[work] = Measured(tiling, seconds[best], seconds[first], len(seconds))
        finally:
            if jobs:
                write_json(self._file, write_layers(self._known))
        layers = {work: self._known[work] for work in works if work in self._known}
        return Tuning(self._machine.target, self._machine.threads, layers, skipped=len(works) - len(layers))

    def _candidates(self, work: DenseWork) -> list[DenseTiling]:
        """The model's choice, then what it ranks best: of the convolution as it is written, and of each size of
        Winograd's tiles."""
        geometry, batch, winograd, unit = work.geometry, work.batch, work.winograd, self._machine.unit
        sums, threads = conv_work(geometry, batch, work.element), self._machine.threads
        tiles = sorted(
            register_tiles(sums.rows, sums.columns, sums.channels, unit, sums.element),
            key=lambda tile: tile_cost(sums, tile),
        )
        direct = [choose_tiling(sums, unit, threads, tile) for tile in tiles[:_CANDIDATES]]
        found: list[DenseTiling] = [self._machine.choose_tiling(geometry, batch, winograd), *direct]
        for size in SIZES:
            if size <= winograd:
                ranked = sorted(
                    winograd_tilings(geometry, batch, size, unit, threads, direct[0]), key=lambda each: each[0]
                )
                found += [tiling for _, tiling in ranked[:_WINOGRAD_CANDIDATES]]
        return list(dict.fromkeys(found))


def _job(work: DenseWork, tilings: list[DenseTiling]) -> Job:
    kernels = {f"k{i}": dense_kernel(f"k{i}", work.geometry, work.batch, tiling) for i, tiling in enumerate(tilings)}
    return Job(kernels)


def _read(name: str) -> dict[DenseWork, Measured]:
    try:
        return read_layers(read_json(name))
    except (ValueError, KeyError, TypeError):
        # No file yet, or one that was cut off: measured again.
        return {}


def tune_here(gm: fx.GraphModule, machine: Machine, deadline: float) -> Tuning:
    """Measure on this machine, see ``Tuner.tune``.

    Raises:
        TargetError: it can't run the code.
    """
    missing = machine.missing()
    if missing:
        raise TargetError(f"tune: code for {machine.name} can't run here: this machine has no {', '.join(missing)}")
    assert isinstance(machine, Cpu)
    return Tuner(machine, LocalDevice(machine.threads)).tune(gm, deadline)
