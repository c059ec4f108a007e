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
from haste_compiler.codegen.cpu.conv2d import conv_work
from haste_compiler.codegen.cpu.dense import DenseTiling, choose_dense, dense_arguments, dense_kernel
from haste_compiler.codegen.cpu.depthwise import is_depthwise
from haste_compiler.codegen.lower import lower
from haste_compiler.codegen.target import vector_unit
from haste_compiler.codegen.tiling import (
    ConvTiling,
    RegisterTile,
    WinogradTiling,
    choose_tiling,
    register_tiles,
    tile_cost,
)
from haste_compiler.codegen.winograd_tiling import SIZES, winograd_tilings
from haste_compiler.haste.geometry import ConvGeometry
from haste_compiler.runtime.threads import use_threads

_CANDIDATES = 8
_WINOGRAD_CANDIDATES = 3
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
        works: dict[str, tuple[ConvGeometry, int, int]] = {}

        def collect(geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
            if not is_depthwise(geometry):
                works.setdefault(_key(geometry, batch, winograd), (geometry, batch, winograd))
            return self._modelled(geometry, batch, winograd)

        lower(gm, vector_unit(self._target), self._threads, collect)
        missing = {key: work for key, work in works.items() if key not in self._known}
        if not missing:
            return
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("tuning", total=len(missing))
            for key, work in missing.items():
                if self._spent < self._seconds:
                    self._known[key] = self._measure(*work)
                progress.advance(task)
        write_cached(self._path, {key: dataclasses.asdict(tiling) for key, tiling in self._known.items()})

    def choose(self, geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
        """The tiling that was measured to be fastest; the model's choice where nothing was measured."""
        return self._known.get(_key(geometry, batch, winograd)) or self._modelled(geometry, batch, winograd)

    def _modelled(self, geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
        return choose_dense(geometry, batch, vector_unit(self._target), self._threads, winograd)

    def _candidates(self, geometry: ConvGeometry, batch: int, winograd: int) -> list[DenseTiling]:
        """What the model ranks best: of the convolution as it is written, and of each size of Winograd's tiles."""
        work, unit = conv_work(geometry, batch), vector_unit(self._target)
        tiles = sorted(
            register_tiles(work.rows, work.columns, work.channels, unit), key=lambda tile: tile_cost(work, tile)
        )
        direct = [choose_tiling(work, unit, self._threads, tile) for tile in tiles[:_CANDIDATES]]
        found: list[DenseTiling] = [*direct]
        for size in SIZES:
            if size <= winograd:
                ranked = sorted(
                    winograd_tilings(geometry, batch, size, unit, self._threads, direct[0]), key=lambda each: each[0]
                )
                found += [tiling for _, tiling in ranked[:_WINOGRAD_CANDIDATES]]
        return found

    def _measure(self, geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
        start = time.perf_counter()
        candidates = self._candidates(geometry, batch, winograd)
        kernels = {f"k{i}": dense_kernel(f"k{i}", geometry, batch, tiling) for i, tiling in enumerate(candidates)}
        with pass_context():
            code = tvm.compile(tvm.IRModule(kernels), target=self._target)
        calls = [
            _call(code[name], [shape for _, shape, _ in dense_arguments(geometry, batch, tiling)])
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


def _key(geometry: ConvGeometry, batch: int, winograd: int) -> str:
    return f"{geometry} batch={batch} winograd={winograd}"


def _tiling(stored: dict[str, Any]) -> DenseTiling:
    """What ``dataclasses.asdict`` made of a tiling."""
    tile = RegisterTile(**stored.pop("tile"))
    if "direct" not in stored:
        return ConvTiling(tile, **stored)
    direct = _tiling(stored.pop("direct"))
    assert isinstance(direct, ConvTiling)
    return WinogradTiling(tile=tile, direct=direct, **stored)


def _read(path: Path) -> dict[str, DenseTiling]:
    try:
        return {key: _tiling(value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError):
        # No file yet, or one that was cut off: measured again.
        return {}
