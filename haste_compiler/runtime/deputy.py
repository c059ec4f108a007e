"""A thread that runs functions for another one, which waits."""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_POLL = 0.001

T = TypeVar("T")


class Deputy:
    """A thread that runs functions for another one. It ends with the last reference to this object."""

    def __init__(self) -> None:
        self._desk = _Desk()
        threading.Thread(target=self._desk.work, name="haste", daemon=True).start()
        weakref.finalize(self, self._desk.hand_in, None).atexit = False

    def run(self, function: Callable[[], T]) -> T:
        """What a function returns, or raises. An interrupt of the caller is raised once the function is through."""
        task = _Task(function)
        interrupt: BaseException | None = None
        try:
            self._desk.hand_in(task)
            task.done.acquire()
        except BaseException as error:
            interrupt = error
        while not task.is_over:
            try:
                time.sleep(_POLL)
            except BaseException as error:
                interrupt = error
        if interrupt or task.error:
            raise interrupt or task.error  # type: ignore[misc]
        return task.result


class _Task:
    """A function, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False
        self.done = _thread.allocate_lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:
            self.error = error
        self.is_over = True
        self.done.release()


class _Desk:
    """Where one thread finds what another hands in: a lock takes half of the time that a queue and a future do."""

    def __init__(self) -> None:
        self._tasks: list[_Task | None] = []
        self._waiting = _thread.allocate_lock()
        self._waiting.acquire()

    def hand_in(self, task: _Task | None) -> None:
        self._tasks.append(task)
        self._waiting.release()

    def work(self) -> None:
        while True:
            self._waiting.acquire()
            task = self._tasks.pop()
            if task is None:
                return
            task.run()
            # The caller's tensors aren't kept until the next task comes.
            del task
