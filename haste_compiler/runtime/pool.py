"""The calling thread's pool of TVM's threads, which a fork leaves without any."""

from __future__ import annotations

import ctypes
import os
from functools import cache

import tvm_ffi
from tvm.libinfo import find_libtvm_runtime

_SHARE_ALL_CORES = -3
_SPIN_COUNT, _SPINS = "TVM_THREAD_POOL_SPIN_COUNT", 100_000
"""How often an idle thread of the pool looks for work before it sleeps, unless the environment says: 30 ms and more.
Only then it looks whether it is to end, which TVM's own 300,000 put off for a minute where the machine is busy."""

_KEPT_PLACES = 8
"""Of how many threads that ended the C library keeps the memory for others: 40 MiB in glibc, 8 MiB each."""


class Pool:
    """TVM's pool of one thread, set up by that thread. It lives in TVM as long as the thread does.

    By itself TVM takes half of the logical processors, also where they are cores of their own, and pins its threads.

    Attributes:
        is_lost: the process is a fork of the one that it was made in: it can't be used.
    """

    def __init__(self) -> None:
        self._count = self._size = 0
        self._places = self._taken = 0
        self.is_lost = False

    def use(self, count: int) -> None:
        """Let ``count`` threads work on what the calling thread runs from now on, on any of the process's cores."""
        if self._count != count:
            self._set_up(count)

    def wake(self) -> None:
        """Let all its threads look for work for a while: a process that is forked while they sleep can't end."""
        self._places = len(os.listdir("/proc/self/task")) + _KEPT_PLACES + self._taken
        if self._size and not self.is_lost:
            self._set_up(self._size)
            # Each of them has a task that does nothing and returns 0.
            _runtime().TVMBackendParallelLaunch(ctypes.CDLL(None).sched_yield, None, 0)

    def lose(self) -> None:
        """In a forked process, do without it."""
        if self._size:
            self.is_lost, self._taken = True, self._places
            _take_places(self._places)

    def _set_up(self, count: int) -> None:
        os.environ.setdefault(_SPIN_COUNT, str(_SPINS))
        cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
        while len(cores) < count:
            cores += cores[: count - len(cores)]
        tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, cores)
        # It keeps the size that it was made with.
        self._count, self._size = count, self._size or len(cores)


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
