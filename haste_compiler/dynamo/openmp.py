"""Compiled code on PyTorch's own threads.

TVM keeps a pool of threads for every thread that calls it, and they spin for a while after each kernel; so do those of
OpenMP, which PyTorch and Inductor use. Where both run in turns each pool's spinning takes the other's cores. A library
that TVM made asks for its threads through a pointer: here it is set to a function that asks OpenMP.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch._inductor.codecache import CppCodeCache

from haste_compiler.codegen.library import Code
from haste_compiler.runtime.threads import began_process, elsewhere, with_threads

log = logging.getLogger(__name__)

T = TypeVar("T")

_POINTER = "__TVMBackendParallelLaunch"

_SOURCE = r"""
#include <atomic>
#include <cstdint>
#include <omp.h>

// As in TVM's c_backend_api.h.
struct Environment { void* sync_handle; int32_t num_task; };
typedef int (*Task)(int task, Environment* environment, void* data);

static thread_local int threads = 1;

extern "C" void haste_use_threads(int count) { threads = count; }

extern "C" int haste_parallel_launch(Task task, void* data, int tasks) {
  int count = tasks > 0 ? tasks : threads;
  if (count == 1) {
    // In a forked process OpenMP's threads are gone, and even a parallel region of one thread may wait for them.
    Environment alone{nullptr, 1};
    return task(0, &alone, data);
  }
  std::atomic<int> failed{0};
#pragma omp parallel num_threads(count)
  {
    Environment environment{nullptr, omp_get_num_threads()};
    if (task(omp_get_thread_num(), &environment, data) != 0) failed = -1;
  }
  return failed;
}
"""


def attach(code: Code) -> Callable[[int, Callable[[], T]], T]:
    """Let a library run on OpenMP's threads.

    Args:
        code: machine code; what is in memory only, not in a library, stays with TVM's own threads.

    Returns:
        A function of the number of threads and of one that runs the code: returns what that does, on so many threads.
    """
    launcher = _launcher() if code.library is not None else None
    if launcher is None:
        return with_threads
    library = ctypes.CDLL(code.library.path)  # type: ignore[union-attr]
    address = ctypes.cast(launcher.haste_parallel_launch, ctypes.c_void_p).value
    # Code without a parallel loop has no pointer.
    with contextlib.suppress(ValueError):
        ctypes.c_void_p.in_dll(library, _POINTER).value = address
    return launcher.with_threads


class _Launcher:
    def __init__(self) -> None:
        library = CppCodeCache.load(_SOURCE)
        self.haste_parallel_launch = library.haste_parallel_launch
        self._use = library.haste_use_threads

    def with_threads(self, count: int, function: Callable[[], T]) -> T:
        # In a worker of a DataLoader PyTorch has one thread, whatever the code was cut for.
        count = min(count, torch.get_num_threads())

        def run() -> T:
            self._use(count)
            return function()

        # Another thread than the one that forked has a team of OpenMP's of its own.
        return elsewhere(run) if count > 1 and began_process() else run()


@functools.cache
def _launcher() -> _Launcher | None:
    try:
        return _Launcher()
    except Exception as error:  # whatever the C++ compiler's trouble is, TVM's own threads are there
        log.warning("compiled code uses TVM's threads beside PyTorch's: %s", error)
        return None
