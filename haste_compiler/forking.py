"""Forks: of a process's threads only the one that forks is in the new process, which must find locks free."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

_PATIENCE = 10.0
"""Seconds that a fork waits for a brief lock: whoever holds it that long may be waiting for the fork himself."""


class Lock:
    """A reentrant lock that no thread which isn't there holds in a forked process.

    Args:
        brief: it is never held for long. A fork waits until it is free: what it guards is whole in the new process.
            Otherwise the new process has a new lock; what it guards must be whole at any time.

    Attributes:
        lock: to be taken by ``with``: Python's own, so that no interrupt comes between taking it and the block.
    """

    def __init__(self, *, brief: bool) -> None:
        self._brief, self.lock = brief, threading.RLock()
        with _changing:
            _locks.add(self)

    def take(self) -> bool:
        """Take it for a fork: whether that succeeded."""
        return self.lock.acquire(timeout=_PATIENCE) if self._brief else self.lock.acquire(blocking=False)

    def renew(self) -> None:
        """Be free, as nobody is left who could release it."""
        self.lock = threading.RLock()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_changing = threading.RLock()
"""Held while ``_locks`` changes, and over a fork."""

_taken: list[tuple[Lock, bool]] = []
"""All locks during a fork, and whether it took them."""


_told: list[tuple[Callable[[], None], Callable[[bool], None]]] = []


def tell(before: Callable[[], None], after: Callable[[bool], None]) -> None:
    """Call functions at every fork: one at the last moment before it, the other right after it.

    Args:
        before: called in the thread that forks, when all brief locks are taken.
        after: called in either process, with whether it is the new one.
    """
    _told.append((before, after))


def _before() -> None:
    _changing.acquire()
    for lock in list(_locks):
        _taken.append((lock, lock.take()))
    for before, _ in _told:
        before()


def _in_parent() -> None:
    for _, after in _told:
        after(False)
    _release()


def _in_child() -> None:
    for _, after in _told:
        after(True)
    for lock, took in _taken:
        if not took:
            lock.renew()
    _release()


def _release() -> None:
    for lock, took in _taken:
        if took:
            lock.lock.release()
    _taken.clear()
    _changing.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
