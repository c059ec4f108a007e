"""The transforms of Winograd's minimal filtering (``graph.winograd``), written out as sums that share what they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.tirx.script import builder as T

from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.winograd import Matrix

MultiplyAdd = Callable[[Expr, Expr, Expr], Expr]
"""A value times a float32 number, plus another value."""


def multiply_and_add(value: Expr, weight: Expr, total: Expr) -> Expr:
    """A product and a sum, which the compiler may fuse where it sees both."""
    return total + value * weight


def combine(matrix: Matrix, values: Sequence[Expr], multiply_add: MultiplyAdd = multiply_and_add) -> list[Expr]:
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
            results.append(T.bind(_weighted(row, values, multiply_add)))
            continue
        pairs = list(zip(row, rows.pop(0), strict=True))
        same = T.bind(_weighted([a if a == b else 0 for a, b in pairs], values, multiply_add))
        other = T.bind(_weighted([a if a != b else 0 for a, b in pairs], values, multiply_add))
        results += [T.bind(same + other), T.bind(same - other)]
    return results


def _signs_differ(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether some, but not all, of the numbers other than zero have opposite signs, and all have equal size."""
    signs = {x == y for x, y in zip(a, b, strict=True) if x or y}
    return len(signs) == 2 and all(abs(x) == abs(y) for x, y in zip(a, b, strict=True))


def _weighted(weights: Sequence[float], values: Sequence[Expr], multiply_add: MultiplyAdd) -> Expr:
    """The weighted sum; a term of weight one comes first, so that every other one is a fused multiply-add."""
    terms = sorted(((w, v) for w, v in zip(weights, values, strict=True) if w), key=lambda term: term[0] != 1)
    (weight, value), *rest = terms
    total = value if weight == 1 else value * T.float32(weight)
    for weight, value in rest:
        if abs(weight) == 1:
            total = total + value if weight > 0 else total - value
        else:
            total = multiply_add(value, T.float32(weight), total)
    return total
