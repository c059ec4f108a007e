"""What becomes of a patch's channels, in the kernels' words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reduction:
    """How channels become fewer.

    Attributes:
        merge: what a group becomes, "mean" or "projection".
        skip: which channels are dropped, "none", "zeros" or "flat".
    """

    merge: str
    skip: str
