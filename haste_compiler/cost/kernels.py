"""The real kernels of one convolution, built alone and timed as they run within a network."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import tvm
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from tvm import tirx

from haste_compiler.codegen.cpu.kernels.dense import choose_dense, dense_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.job import Trial
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.runtime.threads import with_threads

_EVICTED_BYTES = 8 << 20
_MOST_COPIES = 64
_COLD_BYTES = 128 << 20
"""Filters that are gone through before the same are read again: about what a network reads between two calls."""

_FILTERS = ("transformed", "filters")
"""Names of the argument that holds a kernel's filters."""

_PRIVATE = (*_FILTERS, "bias", "tap_sums")
"""Arguments that every kernel has its own of; others of one name are shared: a kernel reads what another wrote."""


class TimedKernels:
    """The plain kernel of one convolution, and those of a method's trial, to be built.

    Attributes:
        machine: the CPU, with its threads.
        geometry: the convolution, one image.
        trial: the other kernels; None: there are none.
        kernels: all of them, by name; the plain one is "dense".
    """

    def __init__(self, machine: Cpu, geometry: ConvGeometry, trial: Trial | None = None) -> None:
        self.machine, self.geometry, self.trial = machine, geometry, trial
        tiling = choose_dense(geometry, 1, machine.unit, machine.threads, max(WINOGRAD_SIZES))
        self.kernels: dict[str, tirx.PrimFunc] = {
            "dense": dense_kernel("dense", geometry, 1, tiling),
            **(trial.kernels if trial else {}),
        }
        self._functions: dict[str, Any] = {}

    def build(self) -> TimedKernels:
        """Generate machine code, and return the same; several threads may do so for kernels of their own."""
        with self.machine.pass_context():
            code = tvm.compile(tvm.IRModule(self.kernels), target=self.machine.generated)
        # Machine code is made when a function is first asked for.
        self._functions = {name: code[name] for name in self.kernels}
        return self

    def __getitem__(self, name: str) -> Any:
        """The machine code of a kernel."""
        return self._functions[name]


class KernelTimer:
    """Times kernels that were built, as they run within a network.

    Between two timings the second-level cache is filled with other data, and the input is touched: within a network
    a layer finds its input there, but its weights were pushed out by the layers before. Each call therefore reads
    another copy of the filters.

    Args:
        kernels: built.
    """

    def __init__(self, kernels: TimedKernels) -> None:
        self._threads, trial = kernels.machine.threads, kernels.trial
        values = trial.values if trial else {}
        self._tensors: dict[str, Tensor] = {name: torch.from_numpy(value).clone() for name, value in values.items()}
        self._calls: dict[str, tuple[Any, Iterator[list[Any]]]] = {}
        # The caller does a single thread's work itself: its own clock doesn't count what other processes take from it.
        self._clock = time.thread_time if self._threads == 1 else time.perf_counter
        self._evicted = np.zeros(_EVICTED_BYTES // 4, np.float32)
        for name, kernel in kernels.kernels.items():
            parameters = _parameters(kernel)
            keys = {label: f"{name}.{label}" if label in _PRIVATE else label for label in parameters}
            for label, (shape, dtype) in parameters.items():
                if keys[label] not in self._tensors:
                    self._tensors[keys[label]] = _initial(shape, dtype)
            arguments = [tvm.runtime.from_dlpack(self._tensors[keys[label]]) for label in keys]
            self._calls[name] = (kernels[name], itertools.cycle(self._with_cold_filters(list(keys), arguments)))

    def _with_cold_filters(self, labels: list[str], arguments: list[Any]) -> list[list[Any]]:
        """A kernel's arguments as often as there are copies of its filters."""
        position = next((labels.index(label) for label in _FILTERS if label in labels), None)
        if position is None:
            return [arguments]
        filters = from_dlpack(arguments[position])
        copies = max(1, min(_MOST_COPIES, _COLD_BYTES // (4 * filters.numel())))
        cold = [tvm.runtime.from_dlpack(filters.clone()) for _ in range(copies)]
        return [[*arguments[:position], copy, *arguments[position + 1 :]] for copy in cold]

    def set(self, state: Mapping[str, Tensor]) -> None:
        """Take other values of some arguments."""
        for name, value in state.items():
            np.copyto(self._tensors[name].numpy(), value.numpy())

    def run_once(self) -> Mapping[str, Tensor]:
        """Run every kernel, and return the arguments by name."""
        with_threads(self._threads, lambda: [self._run(name) for name in self._calls])
        return self._tensors

    def time(self, names: tuple[str, ...]) -> list[float]:
        """Seconds of one call of each kernel, in order, after the caches were filled with other data."""
        # By NumPy: PyTorch's threads would look for more work afterwards, on the cores that the kernels need.
        self._evicted += 1
        touched = self._tensors["x"].numpy()
        touched += 0
        return with_threads(self._threads, lambda: [self._run(name) for name in names])

    def _run(self, name: str) -> float:
        function, arguments = self._calls[name]
        chosen = next(arguments)
        start = self._clock()
        function(*chosen)
        return self._clock() - start


def _parameters(kernel: tirx.PrimFunc) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of a kernel's arguments, by name, in order."""
    return {str(p.name): (tuple(int(size) for size in p.shape), str(p.dtype)) for p in kernel.params}


def _initial(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Random numbers; zeros where they are integers."""
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
