"""How many threads of TVM's pool work on a network."""

from __future__ import annotations

import os
import threading

import tvm_ffi

_SHARE_ALL_CORES = -3
_current = threading.local()


def use_threads(count: int) -> None:
    """Let TVM's pool for the calling thread use ``count`` threads, on any of the process's cores.

    By itself TVM takes half of the logical processors, also where they are cores of their own, and pins its threads.
    """
    if getattr(_current, "count", None) == count:
        return
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    while len(cores) < count:
        cores += cores[: count - len(cores)]
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, cores)
    _current.count = count
