"""Where in an image its tokens were computed, after they were merged again and again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from haste_compiler.methods.tokens.statistics import TokenStats
from haste_compiler.methods.work_map import WorkMap

_MOST_PREFIX = 8
"""Tokens that come before those of the image: of classes, and registers."""


def work_maps(stats: Mapping[str, TokenStats], shape: Sequence[int], image: int) -> dict[str, WorkMap]:
    """A map of each layer that has fewer tokens; arguments as of ``Method.work_maps``.

    A token that stands for s of an image's tiles gives each of them 1 / s of its work. Layers whose tokens merge within
    windows or heads have no map.
    """
    found: dict[str, WorkMap] = {}
    chain: NDArray[np.int32] | None = None
    last: NDArray[np.int32] | None = None
    for name, layer in stats.items():
        if len(layer.assignment) != shape[0]:
            continue
        if layer.assignment is not last:
            last, own = layer.assignment, layer.assignment[image]
            follows = chain is not None and int(chain.max()) + 1 == len(own)
            chain = own[chain] if follows and chain is not None else own
        assert chain is not None
        grid = _grid(len(chain), shape)
        if grid is not None:
            found[name] = _map(layer, chain, grid)
    return found


def _map(layer: TokenStats, chain: NDArray[np.int32], grid: tuple[int, int]) -> WorkMap:
    """The map of tokens that went to these slots."""
    dense, spent = layer.macs.dense, layer.macs.parts.get("convolution", 0)
    tiles = chain[len(chain) - math.prod(grid) :].reshape(grid)
    if spent == dense:
        return WorkMap(np.ones(grid, np.float32), "tokens", "statistics")
    each = 1 / np.bincount(chain)[chain]
    # Work on pairs of tokens is saved twice over; the part that is left is the kernels' count.
    share = each * (spent / dense / each.mean())
    return WorkMap(
        np.minimum(share[len(chain) - math.prod(grid) :].reshape(grid), 1).astype(np.float32),
        "tokens",
        "statistics",
        tiles.astype(np.int32),
    )


def _grid(tokens: int, shape: Sequence[int]) -> tuple[int, int] | None:
    """How many tokens an image has down and across, whose sides are as its own; None: they are no such grid."""
    if len(shape) != 4:
        return None
    height, width = shape[2:]
    for prefix in range(_MOST_PREFIX + 1):
        columns = math.isqrt(max(tokens - prefix, 0) * width // height)
        if columns and columns * columns * height == (tokens - prefix) * width:
            return (tokens - prefix) // columns, columns
    return None
