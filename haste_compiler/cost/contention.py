"""Whether a machine is too busy to be measured: threads that could run wait for a core."""

from __future__ import annotations

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
