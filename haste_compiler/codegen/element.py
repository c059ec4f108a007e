"""Types of tensors' elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Element:
    """A type of tensors' elements.

    Attributes:
        dtype: its name, as TVM writes it.
        bytes: of one.
        accumulator: the type that sums of products are in, as TVM writes it.
    """

    dtype: str
    bytes: int
    accumulator: str

    @property
    def accumulator_bytes(self) -> int:
        """Bytes of one sum."""
        return np.dtype(self.accumulator).itemsize


FLOAT32 = Element("float32", 4, "float32")
