"""Whether a machine is too busy to be measured: threads that could run wait for a core."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path


def seconds_waited() -> float | None:
    """Seconds that this process's threads have waited for a core so far, all together; None where that isn't known.

    Linux tells it, the second number of ``schedstat``, for threads that are alive.
    """
    try:
        waited = [int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat")]
    except (OSError, IndexError, ValueError):
        return None
    return sum(waited) * 1e-9 if waited else None


class Contention:
    """For what part of some spans of time threads waited for a core."""

    def __init__(self) -> None:
        self._waited = self._elapsed = 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count what happens while it is open; nothing where the system doesn't tell."""
        before, start = seconds_waited(), time.perf_counter()
        yield
        elapsed, after = time.perf_counter() - start, seconds_waited()
        if before is not None and after is not None:
            self._waited += after - before
            self._elapsed += elapsed

    @property
    def share(self) -> float:
        """Seconds waited, of all threads together, over seconds watched; 0 where nothing is known."""
        return self._waited / self._elapsed if self._elapsed else 0.0
