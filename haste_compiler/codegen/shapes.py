"""Shapes as TVM writes them, with the batch as a symbol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import sym


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for every batch."""
    analyzer = sym.Analyzer()
    return len(a) == len(b) and all(analyzer.can_prove_equal(x, y) for x, y in zip(a, b, strict=True))
