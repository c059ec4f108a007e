"""Winograd's minimal filtering: m × m outputs of a tile from (m + 2)² products a channel, not 9 m².

Y = Aᵀ [ Σ_c (G F_c Gᵀ) ⊙ (Bᵀ X_c B) ] A        (Lavin & Gray, "Fast Algorithms for Convolutional Neural
                                                 Networks", CVPR 2016, equation 12)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

Matrix = Sequence[Sequence[float]]

INPUT: dict[int, Matrix] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
"""Bᵀ of F(m, 3), by m."""

FILTER: dict[int, Matrix] = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
"""G of F(m, 3), by m."""

OUTPUT: dict[int, Matrix] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
"""Aᵀ of F(m, 3), by m."""


def transform_filters(weight: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(K, C, 3, 3) to G F Gᵀ, (K, C, size + 2, size + 2)."""
    matrix = np.array(FILTER[size])
    return np.einsum("ia,kcab,jb->kcij", matrix, weight.astype(np.float64), matrix).astype(np.float32)


def combine(matrix: Matrix, values: Sequence[Expr]) -> list[Expr]:
    """``matrix`` times a vector of values. Columns, then rows, that differ in signs only share their sums."""
    values, columns = list(values), [list(column) for column in zip(*matrix, strict=True)]
    for c in range(len(columns) - 1):
        if any(columns[c]) and columns[c] != columns[c + 1] and _signs_differ(columns[c], columns[c + 1]):
            left, right = values[c : c + 2]
            values[c : c + 2] = T.bind(left + right), T.bind(left - right)
            pairs = list(zip(columns[c], columns[c + 1], strict=True))
            columns[c] = [a if a == b else 0 for a, b in pairs]
            columns[c + 1] = [a if a != b else 0 for a, b in pairs]
    rows, results = list(zip(*columns, strict=True)), []
    while rows:
        row = rows.pop(0)
        if not rows or not _signs_differ(row, rows[0]):
            results.append(T.bind(_weighted(row, values)))
            continue
        pairs = list(zip(row, rows.pop(0), strict=True))
        same = T.bind(_weighted([a if a == b else 0 for a, b in pairs], values))
        other = T.bind(_weighted([a if a != b else 0 for a, b in pairs], values))
        results += [T.bind(same + other), T.bind(same - other)]
    return results


def _signs_differ(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether some, but not all, of the numbers other than zero have opposite signs, and all have equal size."""
    signs = {x == y for x, y in zip(a, b, strict=True) if x or y}
    return len(signs) == 2 and all(abs(x) == abs(y) for x, y in zip(a, b, strict=True))


def _weighted(weights: Sequence[float], values: Sequence[Expr]) -> Expr:
    """The weighted sum; a term of weight one comes first, so that every other one is a fused multiply-add."""
    terms = sorted(((w, v) for w, v in zip(weights, values, strict=True) if w), key=lambda term: term[0] != 1)
    (weight, value), *rest = terms
    total = value if weight == 1 else value * T.float32(weight)
    for weight, value in rest:
        if abs(weight) == 1:
            total = total + value if weight > 0 else total - value
        else:
            total = total + value * T.float32(weight)
    return total


SIZES = (2, 4)
"""Sides of a tile of outputs that there are kernels for."""


def takes_winograd(geometry: ConvGeometry, size: int) -> bool:
    """Whether F(size × size, 3 × 3) computes this convolution: 3×3, stride 1, dense, and no smaller than a tile."""
    return (
        geometry.kernel == (3, 3)
        and geometry.stride == (1, 1)
        and geometry.dilation == (1, 1)
        and geometry.groups == 1
        and min(geometry.output_size) >= size
    )
