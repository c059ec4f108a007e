"""Time several runners of one case in turns, and check that all of them compute the same."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.comparison import compare
from benchmarks.competitors import EXACT
from benchmarks.runners import Make, Runner
from haste_compiler.errors import first_line
from haste_compiler.validation.timing import no_garbage_collection, warm_up

MAX_DENSE_ERROR = 1e-4
"""Most that the relative error of a runner may be that computes what eager PyTorch does."""

_TIMES_OWN = 4
"""As many times what PyTorch differs by from itself, with images channels_last, is allowed too: some networks with
random weights make much of rounding."""

_LEAST_ROUNDS = 3

_SETTLING = 0.05
"""Seconds after which threads that spin for more work have gone to sleep."""


@dataclass(frozen=True)
class Measurement:
    """How one runner did on one case.

    Attributes:
        runner: its name.
        best: milliseconds for one call, the least over all rounds.
        median: milliseconds for one call, the median over all rounds.
        prepare: seconds that exporting, compiling and the first call took.
        error: how its outputs differ from eager PyTorch's; see `comparison.Comparison`, as for the next.
        agreement: share of the checked images whose class is eager PyTorch's.
        lost: points of top-1 accuracy lost on the checked images.
        size: MiB of the file that the network can be kept in; NaN where there is none.
        rounds: how often it was timed.
        failure: why there are no numbers, or that they are worth nothing; empty if all is well.
        peak: MiB of memory at most while it runs, NaN if that wasn't asked for; see `memory.Memory`, as for the next.
        preparing: MiB at most while it was made.
        planned: MiB that a compiled network of ours is known to need.
        first: milliseconds of a turn's first call, right after another runner's work, the median over all rounds.
        overall: the error of all calls together.
        right: share of the checked images whose class is their label.
        psnr: peak signal-to-noise ratio, dB.
    """

    runner: str
    best: float = math.nan
    median: float = math.nan
    prepare: float = math.nan
    error: float = math.nan
    agreement: float = math.nan
    lost: float = math.nan
    size: float = math.nan
    rounds: int = 0
    failure: str = ""
    peak: float = math.nan
    preparing: float = math.nan
    planned: float = math.nan
    first: float = math.nan
    overall: float = math.nan
    right: float = math.nan
    psnr: float = math.nan


def _prepare(
    name: str, make: Make, case: Case, threads: int, expected: list[Tensor]
) -> tuple[Runner, list[Any], Measurement]:
    start = time.perf_counter()
    runner = make(case.model, case.inputs[0], threads)
    encoded = [runner.encode(x) for x in case.inputs]
    runner.run(encoded[0])
    seconds = time.perf_counter() - start
    # An output may be the runner's own memory, which its next call writes over.
    outputs = [runner.decode(runner.run(runner.encode(x))).clone() for x in case.checked]
    compared = compare(outputs, expected, case.labels, case.brightest)
    size = runner.size() / 2**20 if runner.size else math.nan
    failure = ""
    if (
        name in EXACT
        and not compared.error <= MAX_DENSE_ERROR
        and not compared.error <= _own_difference(case, expected)
    ):
        failure = f"wrong: differs from eager PyTorch by {compared.error:.1e} of the output's norm"
    return runner, encoded, Measurement(name, prepare=seconds, size=size, failure=failure, **asdict(compared))


def _own_difference(case: Case, expected: list[Tensor]) -> float:
    """What may differ because PyTorch itself does."""
    with torch.inference_mode():
        found = [case.model(x.contiguous(memory_format=torch.channels_last)) for x in case.checked if x.dim() == 4]
    return _TIMES_OWN * compare(found, expected).error if len(found) == len(expected) else 0.0


def _turn(runner: Runner, encoded: list[Any], calls: int) -> tuple[float, float]:
    """Milliseconds of the first call, and of one call over all inputs in the mean once the caches hold what is read."""
    run = runner.run
    start = time.perf_counter()
    run(encoded[0])
    first = time.perf_counter() - start
    warm_up(lambda: run(encoded[0]))
    start = time.perf_counter()
    for _ in range(calls):
        for e in encoded:
            run(e)
    return first * 1e3, (time.perf_counter() - start) * 1e3 / (calls * len(encoded))


def measure(
    case: Case,
    makes: Mapping[str, Make],
    threads: int,
    rounds: int,
    seconds: float = math.inf,
    tick: Callable[[str, float], None] = lambda doing, part: None,
) -> list[Measurement]:
    """Time the runners in alternating rounds, each round in another order, so that a slow spell hits all alike.

    With several threads a runner begins after a pause: those of the one before spin for a while before they sleep.

    Args:
        case: what they run.
        makes: what prepares each runner, by name.
        threads: of all runners; the process must have been started with `thread_environment(threads)`.
        rounds: how often each runner is timed, at most.
        seconds: after which no other round begins; there are three at least.
        tick: called with what is being done, and which part of it all is over.

    Returns:
        One measurement a runner, in the order of `makes`. A runner that fails has its reason and no times.
    """
    began, steps = time.perf_counter(), len(makes) + rounds
    torch.set_num_threads(threads)
    with torch.inference_mode():
        expected = [case.model(x).clone() for x in case.checked]
    ready: dict[str, tuple[Runner, list[Any]]] = {}
    results: dict[str, Measurement] = {}
    for i, (name, make) in enumerate(makes.items()):
        tick(f"preparing {name}", i / steps)
        try:
            runner, encoded, results[name] = _prepare(name, make, case, threads, expected)
        except Exception as error:  # a peer that is absent or cannot take the network must not stop the others
            results[name] = Measurement(name, failure=f"{type(error).__name__}: {first_line(error)}"[:200])
        else:
            if not results[name].failure:
                ready[name] = (runner, encoded)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    order = list(ready)
    with no_garbage_collection():
        for i in range(rounds):
            if i >= _LEAST_ROUNDS and time.perf_counter() - began > seconds:
                break
            tick(f"round {i + 1} of {rounds}", (len(makes) + i) / steps)
            for name in random.Random(i).sample(order, len(order)):
                if threads > 1:
                    time.sleep(_SETTLING)
                turns[name].append(_turn(*ready[name], case.calls))
    for name, taken in turns.items():
        firsts, times = zip(*taken, strict=True)
        found = {"best": min(times), "median": statistics.median(times), "first": statistics.median(firsts)}
        results[name] = replace(results[name], **found, rounds=len(taken))
    return list(results.values())
