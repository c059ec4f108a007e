"""The thread that computes: one for all tabs of all browsers, which take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

Job = Callable[[], None]
"""Must not raise."""


class Worker:
    """Does one job after the other.

    Of each owner's jobs that wait only the last one is done: the others are out of date.

    A job that has begun is never cut short.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="haste watch")
        self._thread.start()

    def submit(self, owner: Hashable, job: Job) -> None:
        """Do a job when its turn comes, in the place of the owner's that waits; after ``close``, never."""
        with self._changed:
            self._waiting[owner] = job
            self._changed.notify()

    def drop(self, owner: Hashable) -> None:
        """Forget an owner's job."""
        with self._changed:
            self._waiting.pop(owner, None)

    def close(self) -> None:
        """Do no more jobs, and wait for the end of the one that is being done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                job = self._waiting.pop(next(iter(self._waiting)))
            job()
