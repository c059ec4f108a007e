"""Tuning by measurement: the few tilings that the model ranks best, timed on this machine, the fastest kept on disk."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from rich.console import Console
from rich.progress import Progress
from torch import fx
from tvm.target import Target

from haste_compiler.codegen.build import cache_directory, cache_key, pass_context, write_cached
from haste_compiler.codegen.cpu.conv2d import conv2d_arguments, conv2d_kernel
from haste_compiler.codegen.cpu.depthwise import is_depthwise
from haste_compiler.codegen.lower import lower
from haste_compiler.codegen.target import vector_unit
from haste_compiler.codegen.tiling import (
    ConvTiling,
    ConvWork,
    RegisterTile,
    choose_tiling,
    register_tiles,
    tile_cost,
)
from haste_compiler.haste.geometry import ConvGeometry
from haste_compiler.runtime.threads import use_threads

_CANDIDATES = 8
_ROUNDS = 9


class Tuner:
    """Picks tilings by measurement; pass :meth:`choose` to ``lower``.

    Results are kept in the cache directory, one file for each target, number of threads and version of this package.

    Args:
        target: what the code is for; this machine must be able to run it.
        threads: threads of TVM's pool that work on a kernel.
        seconds: once this much time was spent measuring, the model's choices are taken.
    """

    def __init__(self, target: Target, threads: int, seconds: float = 120.0) -> None:
        self._target, self._threads, self._seconds = target, threads, seconds
        self._path = cache_directory() / f"tuning-{cache_key('', target, threads)}.json"
        self._known = _read(self._path)
        self._spent = 0.0

    def tune(self, gm: fx.GraphModule) -> None:
        """Measure every dense convolution and linear layer of a graph that isn't known yet, with a progress bar."""
        works: dict[str, tuple[ConvGeometry, int, ConvWork]] = {}

        def collect(geometry: ConvGeometry, batch: int, work: ConvWork) -> ConvTiling:
            if not is_depthwise(geometry):
                works.setdefault(_key(geometry, batch), (geometry, batch, work))
            return choose_tiling(work, vector_unit(self._target), self._threads)

        lower(gm, vector_unit(self._target), self._threads, collect)
        missing = {key: work for key, work in works.items() if key not in self._known}
        if not missing:
            return
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("tuning", total=len(missing))
            for key, (geometry, batch, work) in missing.items():
                if self._spent < self._seconds:
                    self._known[key] = self._measure(geometry, batch, work)
                progress.advance(task)
        write_cached(self._path, {key: dataclasses.asdict(tiling) for key, tiling in self._known.items()})

    def choose(self, geometry: ConvGeometry, batch: int, work: ConvWork) -> ConvTiling:
        """The tiling that was measured to be fastest; the model's choice where nothing was measured."""
        known = self._known.get(_key(geometry, batch))
        return known or choose_tiling(work, vector_unit(self._target), self._threads)

    def _measure(self, geometry: ConvGeometry, batch: int, work: ConvWork) -> ConvTiling:
        start, unit = time.perf_counter(), vector_unit(self._target)
        tiles = sorted(
            register_tiles(work.rows, work.columns, work.channels, unit), key=lambda tile: tile_cost(work, tile)
        )
        candidates = [choose_tiling(work, unit, self._threads, tile) for tile in tiles[:_CANDIDATES]]
        kernels = {f"k{i}": conv2d_kernel(f"k{i}", geometry, batch, tiling) for i, tiling in enumerate(candidates)}
        with pass_context():
            code = tvm.compile(tvm.IRModule(kernels), target=self._target)
        calls = [
            _call(code[name], [shape for _, shape, _ in conv2d_arguments(geometry, batch, tiling.tile)])
            for name, tiling in zip(kernels, candidates, strict=True)
        ]
        use_threads(self._threads)
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(_ROUNDS):
            for call, seconds in zip(calls, times, strict=True):
                call()
                begin = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - begin)
        self._spent += time.perf_counter() - start
        medians = [statistics.median(seconds) for seconds in times]
        return candidates[medians.index(min(medians))]


def _call(function: Any, shapes: list[tuple[int, ...]]) -> Callable[[], Any]:
    """The kernel with arguments of its own, random numbers."""
    generator = np.random.default_rng(0)
    arguments = [tvm.runtime.tensor(generator.standard_normal(shape, np.float32)) for shape in shapes]
    return lambda: function(*arguments)


def _key(geometry: ConvGeometry, batch: int) -> str:
    return f"{geometry} batch={batch}"


def _read(path: Path) -> dict[str, ConvTiling]:
    try:
        stored = json.loads(path.read_text())
        return {
            key: ConvTiling(
                RegisterTile(**value["tile"]), value["block"], value["channel_tiles"], value["channels_first"]
            )
            for key, value in stored.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        # No file yet, or one that was cut off: measured again.
        return {}
