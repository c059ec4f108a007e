"""Least squares with nonnegative unknowns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nonnegative_least_squares(matrix: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise |matrix · x - values| over x >= 0, by the active-set method of Lawson and Hanson (1974), chapter 23.

    Args:
        matrix: (rows, unknowns).
        values: (rows,).

    Returns:
        (unknowns,), none negative.
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1
    scaled = matrix / scale
    x = np.zeros(matrix.shape[1])
    passive = np.zeros(matrix.shape[1], bool)
    for _ in range(3 * matrix.shape[1]):
        gradient = scaled.T @ (values - scaled @ x)
        gradient[passive] = 0
        if gradient.max(initial=0) <= 1e-10 * np.linalg.norm(values):
            break
        passive[int(gradient.argmax())] = True
        while True:
            solved = np.zeros_like(x)
            solved[passive] = np.linalg.lstsq(scaled[:, passive], values, rcond=None)[0]
            below = passive & (solved <= 0)
            if not below.any():
                break
            # Walk towards the solution until the first unknown reaches zero, and leave it there.
            step = (x[below] / (x[below] - solved[below])).min()
            x = x + step * (solved - x)
            passive &= x > 1e-15
            x[~passive] = 0
        x = solved
    return x / scale
