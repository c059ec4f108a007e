"""What comes before a timed call."""

import time

from haste_compiler.validation.timing import warm_up


def test_short_calls_are_made_until_the_caches_hold_what_they_read() -> None:
    calls: list[int] = []
    warm_up(lambda: calls.append(0))
    assert len(calls) == 8


def test_long_calls_are_made_once() -> None:
    calls: list[int] = []

    def long() -> None:
        calls.append(0)
        time.sleep(0.11)

    warm_up(long)
    assert len(calls) == 1
