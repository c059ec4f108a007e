"""Timing kernels on a device: this machine, or whatever else keeps to ``Device``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray

from haste_compiler.codegen.job import Job
from haste_compiler.codegen.library import Code
from haste_compiler.runtime.threads import with_threads

FILL = "tvm.contrib.random.random_fill"
"""TVM's function that fills a tensor with random numbers where the tensor is."""

_ROUNDS = 9


class Device(Protocol):
    """What kernels are timed on.

    Attributes:
        at_once: jobs that may be under way, those that are only being built included.
    """

    at_once: int

    def time(self, job: Job, code: Code) -> dict[str, float]:
        """Median seconds of one call of each kernel of a job, whose machine code is ``code``."""


class LocalDevice:
    """This machine. Nothing is built while it measures.

    Args:
        threads: threads of TVM's pool that work on a kernel.
    """

    at_once = 1

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def time(self, job: Job, code: Code) -> dict[str, float]:
        """Median seconds of one call of each kernel of a job."""
        library, fill = code.module.jit(), tvm_ffi.get_global_func(FILL)
        return with_threads(self._threads, lambda: median_seconds(job, library, tvm.cpu(), fill))


def median_seconds(job: Job, library: Any, device: Any, fill: Callable[[Any], Any]) -> dict[str, float]:
    """Time the kernels of a loaded library in turns: a slow spell of the machine hits all of them.

    Args:
        job: the kernels.
        library: their machine code.
        device: where it was loaded.
        fill: fills a tensor there with random numbers.
    """
    tensors: dict[tuple[str, tuple[int, ...], str], Any] = {}
    calls = {}
    for symbol, kernel in job.kernels.items():
        parameters = [(str(p.name), tuple(int(side) for side in p.shape), str(p.dtype)) for p in kernel.params]
        for name, shape, dtype in parameters:
            if (name, shape, dtype) not in tensors:
                tensors[name, shape, dtype] = _tensor(job.values.get(name), shape, dtype, device, fill)
        # Calls the kernel once before it times it.
        evaluate = library.time_evaluator(symbol, device, number=1, repeat=1)
        calls[symbol] = (evaluate, [tensors[parameter] for parameter in parameters])
    times: dict[str, list[float]] = {symbol: [] for symbol in calls}
    for _ in range(_ROUNDS):
        for symbol, (evaluate, arguments) in calls.items():
            times[symbol].append(evaluate(*arguments).results[0])
    return {symbol: statistics.median(seconds) for symbol, seconds in times.items()}


def _tensor(
    value: NDArray[Any] | None, shape: tuple[int, ...], dtype: str, device: Any, fill: Callable[[Any], Any]
) -> Any:
    if value is None and dtype == "float32":
        tensor = tvm.runtime.empty(shape, dtype, device)
        fill(tensor)
        return tensor
    return tvm.runtime.tensor(np.zeros(shape, dtype) if value is None else value, device)
