"""One block of memory for all constants, in large pages where the system has them.

A network's filters are read once a call, page after page: with 4 KiB pages a small image's time goes into looking
addresses up, and the processor prefetches no further than to a page's end.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
_PAGE = 2 << 20


def place(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copy arrays to memory of large pages, each aligned to a cache line; they live as long as one of the copies."""
    # Even an empty one has an address.
    sizes = [max(1, -(-array.nbytes // _ALIGNMENT)) * _ALIGNMENT for array in arrays]
    memory = _reserve(sum(sizes))
    copies, start = [], 0
    for array, size in zip(arrays, sizes, strict=True):
        copy: NDArray[Any] = np.ndarray(array.shape, array.dtype, memory.data, start)
        copy[...] = array
        copies.append(copy)
        start += size
    return copies


def _reserve(size: int) -> NDArray[np.uint8]:
    if not hasattr(mmap, "MADV_HUGEPAGE") or size < _PAGE:
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
    else:
        region = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A kernel without large pages refuses: the memory is as good as any.
        with contextlib.suppress(OSError):
            region.madvise(mmap.MADV_HUGEPAGE)
        memory = np.frombuffer(region, np.uint8)
        start = -memory.ctypes.data % _PAGE
    return memory[start : start + size]
