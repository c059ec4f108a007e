"""Which of two functions is faster, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from haste_compiler.runtime.device import wait_for

_LEAST_ROUNDS = 7
_MOST_ROUNDS = 50
_CLEARLY = 0.97
_SECONDS = 1.0
_WARM_UP = 2


def faster(first: Callable[..., Any], second: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether ``first`` is clearly faster than ``second``: both are called in turns, for about a second.

    Its least time must be below the other's by more than 3 %, and its time in most rounds too: on a busy machine either
    alone is often luck.
    """
    # What a graph draws at random is drawn from the same place as if nothing had been measured.
    cards = sorted({arg.device.index for arg in args if isinstance(arg, Tensor) and arg.is_cuda})
    with torch.random.fork_rng(devices=cards):
        times = _times(first, second, args)
    ratio = statistics.median(mine / other for mine, other in zip(*times, strict=True))
    return max(ratio, min(times[0]) / min(times[1])) < _CLEARLY


def _times(
    first: Callable[..., Any], second: Callable[..., Any], args: Sequence[Any]
) -> tuple[list[float], list[float]]:
    """Seconds of each in every round."""
    for _ in range(_WARM_UP):
        first(*args)
        second(*args)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + _SECONDS
    for done in range(_MOST_ROUNDS):
        if done >= _LEAST_ROUNDS and time.perf_counter() > end:
            break
        for index in (0, 1) if done % 2 else (1, 0):
            wait_for(args)
            start = time.perf_counter()
            (first, second)[index](*args)
            wait_for(args)
            times[index].append(time.perf_counter() - start)
    return times
