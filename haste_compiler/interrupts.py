"""Ctrl-C while something is half done: it is raised where all is whole again, as ``KeyboardInterrupt``.

Raised anywhere, it would be lost in what TVM calls back, become an error of TVM's, or leave modules half imported that
can't be imported twice.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class _Deferred:
    """Notes interrupts in place of a handler."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self._handler, self._noted = handler, False

    def note(self, number: int, frame: FrameType | None) -> None:
        # Who asks twice doesn't want to wait.
        if self._noted:
            self._handler(number, frame)
        self._noted = True

    def pass_on(self) -> None:
        noted, self._noted = self._noted, False
        if noted:
            self._handler(signal.SIGINT, None)


_active: _Deferred | None = None


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """While it is open, an interrupt waits for ``check_interrupt``, or for the end; a second one doesn't."""
    global _active
    handler = signal.getsignal(signal.SIGINT)
    # Only the main thread is interrupted, and only if somebody wants to know.
    if _active is not None or not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred = _Deferred(handler)
    try:
        _active = deferred
        signal.signal(signal.SIGINT, deferred.note)
        yield
    finally:
        _active = None
        signal.signal(signal.SIGINT, handler)
        deferred.pass_on()


def check_interrupt() -> None:
    """Raise an interrupt that waits: here everything is whole.

    Raises:
        KeyboardInterrupt: there is one.
    """
    if _active is not None and threading.current_thread() is threading.main_thread():
        _active.pass_on()
