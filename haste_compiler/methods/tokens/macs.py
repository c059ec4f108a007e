"""Counting what matching and merging take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from haste_compiler.methods.tokens.reference.bipartite import first_destinations, first_sources


def matching_macs(metric: Sequence[int], merged: int, protected: int, **named: Any) -> int:
    """Multiply-adds of ToMe's matching: each source meets every destination, and each has a norm.

    Args:
        metric: the shape of the keys, (*leading, N, C).
        merged: how many tokens merge; all are compared.
        protected: how many of the first ones are in neither set.
    """
    *leading, tokens, width = metric
    sources = len(range(first_sources(protected), tokens, 2))
    destinations = len(range(first_destinations(protected), tokens, 2))
    return math.prod(leading) * width * (sources * destinations + sources + destinations)


def merging_macs(x: Sequence[int], merged: int) -> int:
    """Multiply-adds of merging tokens (B, N, C) of which so many go to others: these and those are weighed."""
    return x[0] * 2 * merged * x[2]
