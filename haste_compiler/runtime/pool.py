"""The calling thread's pool of TVM's threads, which a fork would leave without any."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from functools import cache

import tvm_ffi
from tvm.libinfo import find_libtvm_runtime

_SHARE_ALL_CORES = -3
_SPINS = 300_000
"""How often an idle thread of the pool looks for work before it sleeps, unless TVM_THREAD_POOL_SPIN_COUNT says."""

_SAMPLES = 200


class Pool:
    """TVM's pool of one thread, set up by that thread. It lives in TVM as long as the thread does.

    By itself TVM takes half of the logical processors, also where they are cores of their own, and pins its threads.
    """

    def __init__(self) -> None:
        self._count = self._size = 0
        self._woken = self._awake = 0.0
        self._threads = 0
        self.is_lost = False

    def use(self, count: int) -> None:
        """Let ``count`` threads work on what the calling thread runs from now on, on any of the process's cores."""
        if self._count != count:
            self._set_up(count)

    def wake(self) -> None:
        """Let all its threads look for work for a while: what sleeps while a process forks can't be ended in the new
        one."""
        self._threads = len(os.listdir("/proc/self/task"))
        if self._size and not self.is_lost:
            self._set_up(self._size)
            # Each of them has a task that does nothing and returns 0.
            _runtime().TVMBackendParallelLaunch(ctypes.CDLL(None).sched_yield, None, 0)
            self._woken = time.monotonic()
            self._awake = _awake_seconds()

    def restart(self) -> None:
        """In a forked process, take new threads. If the old ones may have slept, the pool is lost: it can't be used."""
        if not self._size or self.is_lost:
            return
        reset = getattr(_runtime(), _RESET, None)
        if reset is None or time.monotonic() - self._woken > self._awake:
            self.is_lost = True
            _take_places(self._threads)
            return
        size, self._count = self._size, 0
        cores = os.sched_getaffinity(0)
        reset()
        os.sched_setaffinity(0, cores)
        self._set_up(size)

    def _set_up(self, count: int) -> None:
        cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
        while len(cores) < count:
            cores += cores[: count - len(cores)]
        tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, cores)
        # It keeps the size that it was made with.
        self._count, self._size = count, self._size or len(cores)


_RESET = "_ZN3tvm7runtime9threading15ResetThreadPoolEv"
"""``tvm::runtime::threading::ResetThreadPool()``: TVM has no other way to it."""


@cache
def _runtime() -> ctypes.CDLL:
    return ctypes.CDLL(find_libtvm_runtime())


def _take_places(count: int) -> None:
    """In a forked process, let threads that are through at once take the memory of those that are gone.

    When the process ends TVM waits for the threads of a lost pool. Without this it would find others in their place,
    which it can't wait for, or which don't end. Nobody else waits for these, so that they keep their places.
    """
    library, place = ctypes.CDLL(None), ctypes.c_ulong()
    for _ in range(count):
        library.pthread_create(ctypes.byref(place), None, library.sched_yield, None)


def _awake_seconds() -> float:
    """How long threads that ran out of work look for more, at the least."""
    times = [time.perf_counter()]
    for _ in range(_SAMPLES):
        os.sched_yield()
        times.append(time.perf_counter())
    each = min(after - before for before, after in itertools.pairwise(times))
    # Half of it: this loop's own time is in it.
    return int(os.environ.get("TVM_THREAD_POOL_SPIN_COUNT", _SPINS)) * each / 2
