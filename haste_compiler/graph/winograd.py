"""Winograd's minimal filtering: m × m outputs of a tile from (m + 2)² products a channel, not 9 m².

Y = Aᵀ [ Σ_c (G F_c Gᵀ) ⊙ (Bᵀ X_c B) ] A        (Lavin & Gray, "Fast Algorithms for Convolutional Neural
                                                 Networks", CVPR 2016, equation 12)

The points that polynomials are evaluated at are 0, ±1, ∞ for m = 2, and 0, ±3/4, ±3/2, ∞ for m = 4. The usual ±1, ±2
take as many operations and round worse: in float32 2.7e-7 became 4.9e-7, with values of 8 bits 0.005 became 0.010.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from haste_compiler.graph.geometry import ConvGeometry

Matrix = Sequence[Sequence[float]]

INPUT: dict[int, Matrix] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (81 / 64, 0, -45 / 16, 0, 1, 0),
        (0, -27 / 16, -9 / 4, 3 / 4, 1, 0),
        (0, 27 / 16, -9 / 4, -3 / 4, 1, 0),
        (0, -27 / 32, -9 / 16, 3 / 2, 1, 0),
        (0, 27 / 32, -9 / 16, -3 / 2, 1, 0),
        (0, 81 / 64, 0, -45 / 16, 0, 1),
    ),
}
"""Bᵀ of F(m, 3), by m."""

FILTER: dict[int, Matrix] = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (64 / 81, 0, 0),
        (-128 / 243, -32 / 81, -8 / 27),
        (-128 / 243, 32 / 81, -8 / 27),
        (32 / 243, 16 / 81, 8 / 27),
        (32 / 243, -16 / 81, 8 / 27),
        (0, 0, 1),
    ),
}
"""G of F(m, 3), by m."""

OUTPUT: dict[int, Matrix] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: (
        (1, 1, 1, 1, 1, 0),
        (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2, 0),
        (0, 9 / 16, 9 / 16, 9 / 4, 9 / 4, 0),
        (0, 27 / 64, -27 / 64, 27 / 8, -27 / 8, 1),
    ),
}
"""Aᵀ of F(m, 3), by m."""

SIZES = (2, 4)
"""Sides of a tile of outputs that there are kernels for."""


def transform_filters(weight: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(K, C, 3, 3) to G F Gᵀ, (K, C, size + 2, size + 2)."""
    matrix = np.array(FILTER[size])
    # As one product: G F Gᵀ row by row is (G ⊗ G) times the filter's nine taps.
    taps = weight.reshape(-1, 9).astype(np.float64)
    return (taps @ np.kron(matrix, matrix).T).reshape(*weight.shape[:2], size + 2, size + 2).astype(np.float32)


def takes_winograd(geometry: ConvGeometry, size: int) -> bool:
    """Whether F(size × size, 3 × 3) computes this convolution: 3×3, stride 1, dense, and no smaller than a tile."""
    return (
        geometry.kernel == (3, 3)
        and geometry.stride == (1, 1)
        and geometry.dilation == (1, 1)
        and geometry.groups == 1
        and min(geometry.output_size) >= size
    )
