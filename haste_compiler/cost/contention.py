"""Whether a machine is too busy to be measured: threads that could run wait for a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_MOST_WAITED = 0.03
"""Share of the time of a call that threads may have waited for a core."""


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
    """How many measurements were disturbed by threads that waited for a core, each time that they were repeated.

    That a thread waits now and then is no sign of a busy machine: TVM's threads are bound to cores, and the caller's
    thread may be on one of theirs.
    """

    def __init__(self) -> None:
        self._measurements = self._disturbed = 0

    def note(self, waited: Sequence[float]) -> None:
        """Count one measurement.

        Args:
            waited: each time that it was repeated, the seconds that all threads waited over those that it took.
        """
        self._measurements += 1
        self._disturbed += min(waited) > _MOST_WAITED

    @property
    def share(self) -> float:
        """The share of the measurements that were disturbed; 0 where none was made."""
        return self._disturbed / self._measurements if self._measurements else 0.0


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What ``call`` returns, and the seconds that threads waited meanwhile over those that it took; 0 where the system
    doesn't tell.
    """
    before, start = seconds_waited(), time.perf_counter()
    result = call()
    elapsed, after = time.perf_counter() - start, seconds_waited()
    if before is None or after is None:
        return result, 0.0
    return result, (after - before) / elapsed
