"""Timing calls so short that one alone can't be timed."""

import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]

Times = dict[str, list[float]]
"""Seconds of a call in each round, by what was called."""

_LEAST_SECONDS = 2e-3
"""So long a measurement takes at least, by repeating short calls."""


def seconds(call: Call) -> float:
    """Of one call."""
    repeats, start = 0, time.perf_counter()
    while repeats == 0 or time.perf_counter() - start < _LEAST_SECONDS:
        call()
        repeats += 1
    return (time.perf_counter() - start) / repeats


def in_turns(calls: Mapping[str, Call], rounds: int, before: Callable[[Call], Any] = lambda call: None) -> Times:
    """Time each in every round, in turns.

    Args:
        calls: by name.
        rounds: how often each is timed.
        before: is given each call before it is timed.
    """
    times: Times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            before(call)
            times[name].append(seconds(call))
    return times
