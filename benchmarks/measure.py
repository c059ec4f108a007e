"""Time several runners of one case in turns, and check that all of them compute the same."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.runners import OURS, PEERS, Runner
from haste_compiler.errors import first_line

MAX_DENSE_ERROR = 1e-4


@dataclass(frozen=True)
class Measurement:
    """How one runner did on one case.

    Attributes:
        runner: its name.
        best: milliseconds for one input, the least over all rounds.
        median: milliseconds for one input, the median over all rounds.
        prepare: seconds that exporting, compiling and the first call took.
        error: largest 2-norm of the difference from eager PyTorch's output, as a share of that output's norm.
        failure: why there are no numbers, or that they are worth nothing; empty if all is well.
        peak: MiB of memory at most while it runs, NaN if that wasn't asked for; see `memory.Memory`, as for the next.
        preparing: MiB at most while it was made.
        planned: MiB that a compiled network of ours is known to need.
    """

    runner: str
    best: float = float("nan")
    median: float = float("nan")
    prepare: float = float("nan")
    error: float = float("nan")
    failure: str = ""
    peak: float = float("nan")
    preparing: float = float("nan")
    planned: float = float("nan")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """2-norm of the difference as a share of the expected output's."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def _prepare(name: str, case: Case, threads: int, expected: list[Tensor]) -> tuple[Runner, list[Any], Measurement]:
    start = time.perf_counter()
    runner = {**PEERS, **OURS}[name](case.model, case.inputs[0], threads)
    encoded = [runner.encode(x) for x in case.inputs]
    runner.run(encoded[0])
    seconds = time.perf_counter() - start
    error = max(relative_error(runner.decode(runner.run(e)), y) for e, y in zip(encoded, expected, strict=True))
    failure = ""
    if not name.startswith("haste") and not error <= MAX_DENSE_ERROR:
        failure = f"wrong: differs from eager PyTorch by {error:.1e} of the output's norm"
    return runner, encoded, Measurement(name, prepare=seconds, error=error, failure=failure)


def _milliseconds(runner: Runner, encoded: list[Any], calls: int) -> float:
    """Mean time of one call over all inputs, after a call that brings this runner's weights back into the caches."""
    run = runner.run
    run(encoded[0])
    start = time.perf_counter()
    for _ in range(calls):
        for e in encoded:
            run(e)
    return (time.perf_counter() - start) * 1e3 / (calls * len(encoded))


def measure(
    case: Case, names: list[str], threads: int, rounds: int, tick: Callable[[str], None] = lambda doing: None
) -> list[Measurement]:
    """Time the runners in alternating rounds, each round in another order, so that a slow spell hits all alike.

    Args:
        case: what to run.
        names: of the runners.
        threads: for each of them. The process must have been started with `runners.thread_environment(threads)`.
        rounds: how often each runner is timed.
        tick: called with what is being done.

    Returns:
        One measurement a runner, in the order of `names`. A runner that fails has its reason and no times.
    """
    torch.set_num_threads(threads)
    with torch.inference_mode():
        expected = [case.model(x).clone() for x in case.inputs]
    ready: dict[str, tuple[Runner, list[Any]]] = {}
    results: dict[str, Measurement] = {}
    for name in names:
        tick(f"preparing {name}")
        try:
            runner, encoded, results[name] = _prepare(name, case, threads, expected)
        except Exception as error:  # a peer that is absent or cannot take the network must not stop the others
            results[name] = Measurement(name, failure=f"{type(error).__name__}: {first_line(error)}"[:200])
        else:
            if not results[name].failure:
                ready[name] = (runner, encoded)
    times: dict[str, list[float]] = {name: [] for name in ready}
    order = list(ready)
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            tick(f"round {i + 1} of {rounds}")
            for name in order:
                times[name].append(_milliseconds(*ready[name], case.calls))
            order = order[1:] + order[:1]
    finally:
        gc.enable()
    return [
        Measurement(name, min(times[name]), statistics.median(times[name]), m.prepare, m.error) if name in times else m
        for name, m in results.items()
    ]
