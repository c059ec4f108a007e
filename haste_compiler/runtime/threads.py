"""How many threads work on a network, in a process that may fork."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from haste_compiler import forking
from haste_compiler.runtime.deputy import Deputy
from haste_compiler.runtime.pool import Pool

T = TypeVar("T")


class _Own(threading.local):
    """What belongs to the calling thread.

    Attributes:
        pool: TVM's.
        deputy: runs what the thread itself can't; None: nothing yet.
        began: it is the one that a forked process began with.
    """

    def __init__(self) -> None:
        self.pool = Pool()
        self.deputy: Deputy | None = None
        self.began = False


_own = _Own()


def with_threads(count: int, function: Callable[[], T]) -> T:
    """What a function that calls machine code returns: ``count`` threads of TVM's pool work on it."""
    if _own.pool.is_lost:
        return elsewhere(lambda: with_threads(count, function))
    _own.pool.use(count)
    return function()


def elsewhere(function: Callable[[], T]) -> T:
    """What a function returns that another thread runs, the same for every call of the calling one."""
    if _own.deputy is None:
        _own.deputy = Deputy()
    return _own.deputy.run(function)


def began_process() -> bool:
    """Whether a forked process began with the calling thread: the threads that OpenMP had for it are gone."""
    return _own.began


def _before_fork() -> None:
    _own.pool.wake()


def _after_fork(is_new: bool) -> None:
    if is_new:
        _own.pool.lose()
        _own.deputy, _own.began = None, True


forking.tell(_before_fork, _after_fork)
