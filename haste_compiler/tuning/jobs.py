"""Timing many jobs within a time budget: built here one after another, measured side by side where there are several
devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from tvm.target import Target

from haste_compiler.codegen.job import Job
from haste_compiler.interrupts import check_interrupt
from haste_compiler.progress import progress
from haste_compiler.tuning.device import Device

K = TypeVar("K")


def time_jobs(
    jobs: Mapping[K, Callable[[], Job]], device: Device, target: Target, deadline: float, label: str
) -> Iterator[tuple[K, dict[str, float]]]:
    """Time jobs in order, with a progress bar; yields each one's key and its kernels' seconds, once known.

    Args:
        jobs: make the jobs.
        device: what they are timed on.
        target: what their kernels are compiled for.
        deadline: by ``time.monotonic``; no job is begun after it.
        label: of the progress bar.

    Raises:
        TuningError: the device gave up.
    """
    if not jobs:
        return
    running: dict[Future[dict[str, float]], K] = {}
    with (
        progress(label) as tick,
        ThreadPoolExecutor(device.at_once) as pool,
    ):
        tick("", 0.0)
        done = 0

        def finished(most: int) -> Iterator[tuple[K, dict[str, float]]]:
            nonlocal done
            while len(running) > most:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    done += 1
                    tick("", done / len(jobs))
                    yield key, future.result()

        for key, make in jobs.items():
            check_interrupt()
            if time.monotonic() >= deadline:
                break
            job = make()
            running[pool.submit(device.time, job, job.build(target))] = key
            yield from finished(device.at_once - 1)
        yield from finished(0)
