"""Tensors of -1, 0 and 1 in a saved network: 2 bits an element, four elements a byte, the first in the lowest bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)


def is_ternary(values: NDArray[Any]) -> bool:
    """Whether a tensor is int8 and holds nothing but -1, 0 and 1."""
    return values.dtype == np.int8 and values.size > 0 and bool(values.min() >= -1 and values.max() <= 1)


def pack_ternary(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The elements in their order, each plus 1, as uint8 (⌈elements / 4⌉,)."""
    codes = np.pad((values.reshape(-1) + 1).astype(np.uint8), (0, -values.size % 4))
    return np.bitwise_or.reduce(codes.reshape(-1, 4) << _SHIFTS, axis=1)


def unpack_ternary(packed: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.int8]:
    """What ``pack_ternary`` was given.

    Args:
        packed: what it returned.
        shape: of the tensor.

    Raises:
        ValueError: it can't have returned that.
    """
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-count // 4),):
        raise ValueError(f"a ternary tensor of shape {list(shape)} is packed as {packed.dtype} {list(packed.shape)}")
    codes = ((packed[:, None] >> _SHIFTS) & 3).reshape(-1)[:count]
    if bool((codes > 2).any()):
        raise ValueError("a ternary tensor holds something else than -1, 0 and 1")
    return (codes.astype(np.int8) - 1).reshape(shape)
