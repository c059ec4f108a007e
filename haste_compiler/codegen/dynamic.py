"""A batch whose size is known only when a network is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm import tirx


@dataclass(frozen=True)
class DynamicBatch:
    """The images of a call, as kernels see them: a variable where a static network has a number.

    Attributes:
        hint: images that tilings are chosen for.
        least: fewest images of a call.
        size: the same in the network's main function, an expression of its own variable.
        variable: the kernel's own; whatever is built with it gets a copy.
    """

    hint: int
    least: int
    size: Any = field(compare=False, repr=False)
    variable: Any = field(compare=False, repr=False, default_factory=lambda: tirx.Var("batch", "int64"))


Batch = int | DynamicBatch
"""How many images: a number, or known only at run time."""


def hint_of(batch: Batch) -> int:
    """Images to choose tilings for."""
    return batch if isinstance(batch, int) else batch.hint


def least_of(batch: Batch) -> int:
    """Fewest images of a call."""
    return batch if isinstance(batch, int) else batch.least


def images_of(batch: Batch) -> Any:
    """The number of images inside a kernel: a constant, or an index of 32 bits like all others."""
    return batch if isinstance(batch, int) else tirx.Cast("int32", batch.variable)
