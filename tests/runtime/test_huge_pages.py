"""Constants in one block of memory."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from haste_compiler.runtime.huge_pages import place


@pytest.mark.parametrize("largest", [5, 3 << 20])
def test_copies_are_equal_aligned_and_apart(largest: int) -> None:
    generator = np.random.default_rng(0)
    arrays: list[NDArray[Any]] = [
        generator.standard_normal((3, largest)).astype(np.float32),
        np.arange(7, dtype=np.int32),
        np.empty((0, 2)),
    ]
    copies = place(arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(copy, array)
        assert copy.dtype == array.dtype and copy.flags.c_contiguous and copy.ctypes.data % 64 == 0
    copies[1][:] = -1
    np.testing.assert_array_equal(copies[0], arrays[0])


def test_the_memory_lives_as_long_as_a_copy() -> None:
    copy = place([np.full(1 << 20, 3.0, np.float32)])[0]
    place([np.full(1 << 20, 4.0, np.float32)])
    assert (copy == 3).all()
