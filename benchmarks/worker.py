"""One case, batch and number of threads in a process of its own, which most thread pools need to be told anything."""

import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import calibration, cases, searched
from benchmarks.competitors import INT8_PEERS, PEERS, makers
from benchmarks.measure import measure
from benchmarks.report import Result
from benchmarks.runners import thread_environment

_MARK = "» "
"""Begins the lines of a worker's output that say what it is doing; its libraries may print others."""


@dataclass(frozen=True)
class Work:
    """What a worker measures.

    Attributes:
        case: one of `cases.CASES`.
        batch: images a call.
        threads: of every runner, and cores of the process.
        runners: names; those of ours that the case does not ask for are left out, and peers that don't take its input.
        rounds: how often each runner is timed, at most.
        seconds: after which no other round begins.
        searched: file of the configurations that were searched.
        all_images: check on all images that there are, where they have labels: see `cases.ALL_IMAGES`.
    """

    case: str
    batch: int
    threads: int
    runners: Sequence[str]
    rounds: int
    seconds: float
    searched: str
    all_images: bool = False


def run(work: Work, tick: Callable[[str, float], None]) -> Result:
    """Measure in a process of its own.

    Args:
        work: what.
        tick: called with what is being done, and which part of it is over.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(work)), str(out)]
        environment = thread_environment(work.threads)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, errors="replace") as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_MARK):
                    part, _, doing = line.removeprefix(_MARK).strip().partition(" ")
                    tick(doing, float(part))
        if process.returncode or not out.exists():
            failure = f"the process ended with status {process.returncode}"
            return Result(work.case, work.batch, work.threads, [], failure=failure)
        return Result.from_dict(json.loads(out.read_text()))


def add_memory(result: Result, searched_file: Path) -> Result:
    """Measure the memory of every runner that was timed, in a process of its own each."""
    measurements = []
    for m in result.measurements:
        if not m.failure:
            command = [sys.executable, "-m", "benchmarks.memory", result.case, m.runner]
            command += [str(result.threads), str(result.batch), str(searched_file)]
            environment = thread_environment(result.threads)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                m = replace(m, failure=f"memory: the process ended with status {done.returncode}")
            else:
                found = json.loads(done.stdout.strip().splitlines()[-1])
                m = replace(m, peak=found["running"], preparing=found["preparing"], planned=found["planned"])
        measurements.append(m)
    return replace(result, measurements=measurements)


def pin(threads: int) -> None:
    """Let this process, and what it starts, use no more cores than it has threads; the last ones, where the system
    itself has less to do.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def work_here(work: Work) -> Result:
    """Measure in this process, which was started for it."""

    def tick(doing: str, part: float) -> None:
        print(f"{_MARK}{part:.4f} {doing}", flush=True)

    build = cases.ALL_IMAGES.get(work.case) if work.all_images else None
    try:
        case = (build or cases.CASES[work.case])(work.batch)
    except cases.AbsentError as error:
        return Result(work.case, work.batch, work.threads, [], absent=str(error))
    # A layout of images.
    unfit = {"channels_last"} if case.inputs[0].dim() != 4 else set()
    wanted = [name for name in work.runners if name in {*PEERS, *INT8_PEERS, *case.ours} - unfit]
    calls = functools.cache(lambda: calibration.calls(case))
    makes = makers(wanted, calls, searched.read(Path(work.searched), work.case))
    measured = measure(case, makes, work.threads, work.rounds, work.seconds, tick)
    calibrated = calibration.describe(case) if INT8_PEERS.keys() & set(wanted) else ""
    return Result(work.case, work.batch, work.threads, measured, calibrated=calibrated)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    given = Work(**json.loads(sys.argv[1]))
    pin(given.threads)
    Path(sys.argv[2]).write_text(json.dumps(work_here(given).to_dict()))
