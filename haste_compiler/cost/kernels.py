"""The real kernels of one convolution, built alone and timed as they run within a network."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from tvm import tirx
from tvm.target import Target

from haste_compiler.codegen.build import pass_context
from haste_compiler.codegen.cpu.kernels.dense import choose_dense, dense_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import MAX_HYPERPLANES, WINOGRAD_SIZES
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.hashing import pack_hyperplanes
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.runtime.threads import use_threads

_EVICTED_BYTES = 8 << 20
_MOST_COPIES = 64
_COLD_BYTES = 128 << 20
"""Filters that are gone through before the same are read again: about what a network reads between two calls."""


class KernelTimer:
    """The kernels of one convolution: dense, and with ``haste`` grouping and convolving (projection, flat).

    Between two timings the second-level cache is filled with other data, and the input is touched: within a network
    a layer finds its input there, but its weights were pushed out by the layers before. Each call therefore reads
    another copy of the filters.
    """

    def __init__(self, geometry: ConvGeometry, batch: int, target: Target, threads: int, *, haste: bool) -> None:
        unit = vector_unit(target)
        self.unit, self.threads = unit, threads
        dense = choose_dense(geometry, batch, unit, threads, max(WINOGRAD_SIZES))
        kernels = {"dense": dense_kernel("dense", geometry, batch, dense)}
        if haste:
            tiling = choose_haste_tiling(geometry, batch, unit, threads)
            kernels["group"] = haste_group_kernel(
                "group", geometry, batch, unit.lanes, merge="projection", skip="flat", planes=MAX_HYPERPLANES
            )
            kernels["convolve"] = haste_convolve_kernel("convolve", geometry, batch, tiling, skip="flat")
        with pass_context():
            code = tvm.compile(tvm.IRModule(kernels), target=target)
        planes = pack_hyperplanes(draw_hyperplanes(geometry.window_pixels, 0, "calibration").numpy())
        # Tensors of one name are shared: the second half reads what the first wrote.
        self._tensors: dict[str, Tensor] = {"planes": torch.from_numpy(planes).clone()}
        self._calls = {}
        # The caller does a single thread's work itself: its own clock doesn't count what other processes take from it.
        self._clock = time.thread_time if threads == 1 else time.perf_counter
        self._evicted = torch.zeros(_EVICTED_BYTES // 4)
        for name, kernel in kernels.items():
            private = {"transformed", "filters", "bias", "tap_sums"}
            keys = {label: f"{name}.{label}" if label in private else label for label in _parameters(kernel)}
            for label, (shape, dtype) in _parameters(kernel).items():
                if keys[label] not in self._tensors:
                    self._tensors[keys[label]] = _initial(label, shape, dtype)
            arguments = [tvm.runtime.from_dlpack(self._tensors[keys[label]]) for label in keys]
            self._calls[name] = (code[name], itertools.cycle(self._with_cold_filters(list(keys), arguments)))

    def _with_cold_filters(self, labels: list[str], arguments: list[Any]) -> list[list[Any]]:
        """A kernel's arguments as often as there are copies of its filters."""
        position = next((labels.index(label) for label in ("transformed", "filters") if label in labels), None)
        if position is None:
            return [arguments]
        filters = from_dlpack(arguments[position])
        copies = max(1, min(_MOST_COPIES, _COLD_BYTES // (4 * filters.numel())))
        cold = [tvm.runtime.from_dlpack(filters.clone()) for _ in range(copies)]
        return [[*arguments[:position], copy, *arguments[position + 1 :]] for copy in cold]

    def set(self, x: Tensor, settings: Settings) -> None:
        """Take another input, NHWC, and other settings."""
        self._tensors["x"].copy_(x)
        self._tensors["settings"].copy_(settings.pack())

    def counts(self, x: Tensor, settings: Settings) -> NDArray[np.float64]:
        """Group an input; what ``Merging`` holds as counts."""
        self.set(x, settings)
        self._run("group")
        return self._tensors["counts"].flatten(0, -2).double().numpy()

    def time(self, names: tuple[str, ...]) -> list[float]:
        """Seconds of one call of each kernel, in order, after the caches were filled with other data."""
        use_threads(self.threads)
        self._evicted.add_(1)
        self._tensors["x"].add_(0)
        return [self._run(name) for name in names]

    def _run(self, name: str) -> float:
        function, arguments = self._calls[name]
        chosen = next(arguments)
        start = self._clock()
        function(*chosen)
        return self._clock() - start


def _parameters(kernel: tirx.PrimFunc) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of a kernel's arguments, by name, in order."""
    return {str(p.name): (tuple(int(size) for size in p.shape), str(p.dtype)) for p in kernel.params}


def _initial(label: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Random numbers; filters that all matter alike."""
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    if label == "filter_norm2":
        return torch.ones(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
