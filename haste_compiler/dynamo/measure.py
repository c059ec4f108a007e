"""Which of two functions is faster, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

_LEAST_ROUNDS = 5
_MOST_ROUNDS = 50
_SECONDS = 0.5
_WARM_UP = 2


def faster(first: Callable[..., Any], second: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether ``first`` is at least as fast as ``second``: both are called in turns, and the least times compared.

    Takes about half a second, or five calls of each.
    """
    # What a graph draws at random is drawn from the same place as if nothing had been measured.
    with torch.random.fork_rng(devices=[]):
        return _faster(first, second, args)


def _faster(first: Callable[..., Any], second: Callable[..., Any], args: Sequence[Any]) -> bool:
    for _ in range(_WARM_UP):
        first(*args)
        second(*args)
    best = [float("inf"), float("inf")]
    end = time.perf_counter() + _SECONDS
    for done in range(_MOST_ROUNDS):
        if done >= _LEAST_ROUNDS and time.perf_counter() > end:
            break
        for index in (0, 1) if done % 2 else (1, 0):
            start = time.perf_counter()
            (first, second)[index](*args)
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0] <= best[1]
