"""The token that is most similar to another: by the cosine of the angle between the two."""

from __future__ import annotations

import math

from torch import Tensor

LEAST_NORM = 1e-12
"""Of a row that is divided by its norm, as in ``torch.nn.functional.normalize``."""


def directions(x: Tensor) -> Tensor:
    """Rows (..., rows, width) over their norms; a row of zeros stays one."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=LEAST_NORM)


def most_similar(sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """For each source the largest cosine with a destination, and which that is: of equal ones the first.

    A cosine that isn't a number is less than all others.

    Args:
        sources: (*leading, S, width).
        destinations: (*leading, D, width), D at least 1.

    Returns:
        Cosines and int64 indices, (*leading, S) each.
    """
    cosines = (directions(sources) @ directions(destinations).mT).nan_to_num(nan=-math.inf)
    largest, index = cosines.max(-1)
    return largest, index
