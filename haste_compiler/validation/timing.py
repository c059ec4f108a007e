"""Measuring the original, the dense compile and the compiled network in turns."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from haste_compiler.progress import Step
from haste_compiler.runtime.device import wait_for
from haste_compiler.validation.batches import Batch
from haste_compiler.validation.comparison import check_same_kind, relative_error
from haste_compiler.validation.protocol import Compiled
from haste_compiler.validation.report import Times, Timing
from haste_compiler.validation.running import Call, fresh_copy, run

PROFILE_CALLS = 3

_WARM_UP_CALLS = 8
_WARM_UP_SECONDS = 0.1


def measure(
    model: Call,
    compiled: Compiled,
    batches: Sequence[Batch],
    rounds: int,
    tick: Step = lambda phase, step: None,
) -> Times:
    """Time one call of the original, of the dense compile and of the compiled network, round after round.

    Every round takes the next of ``batches``, the same for all three, and begins with another of them, so that a slow
    spell of the machine hits all alike. A timed call comes after untimed ones of the same network, on another copy of
    the same input: see `warm_up`.

    Args:
        model: the original, in evaluation mode.
        compiled: the compiled network.
        batches: at least one; all of one signature.
        rounds: how often each network is timed, at least 1.
        tick: told what is being done.

    Raises:
        ValidationError: the dense compile returns something of another structure, shape or dtype than the original.
    """
    tick("compiling dense", "")
    dense = compiled.dense
    _prepare(dense, batches[0])
    dense_error = _check_dense(model, dense, batches[0])
    networks: dict[str, Call] = {"original": model, "dense": dense, "compiled": compiled}
    if dense is compiled:
        # Nothing was merged: two names for one network, whose difference would be noise.
        del networks["dense"]
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    with no_garbage_collection(), torch.inference_mode():
        for number in range(rounds):
            tick("timing", f"round {number + 1} of {rounds}")
            inputs = batches[number % len(batches)].inputs
            for name in order:
                seconds[name].append(_one_call(networks[name], inputs))
            order = order[1:] + order[:1]
    seconds.setdefault("dense", seconds["compiled"])
    timings = {name: Timing(min(values), statistics.median(values)) for name, values in seconds.items()}
    return Times(
        original=timings["original"],
        dense=timings["dense"],
        compiled=timings["compiled"],
        speedup=_paired(seconds["dense"], seconds["compiled"]),
        best_speedup=timings["dense"].best / timings["compiled"].best,
        original_speedup=_paired(seconds["original"], seconds["compiled"]),
        rounds=rounds,
        threads=torch.get_num_threads(),
        dense_rel_error=dense_error,
    )


def profile(compiled: Compiled, batch: Batch) -> Mapping[str, float] | None:
    """Seconds by layer of one call, the least of a few; None where the network cannot be profiled."""
    once = getattr(compiled, "profile", None)
    if once is None:
        return None
    found: dict[str, float] = {}
    for _ in range(PROFILE_CALLS):
        for name, seconds in once(*fresh_copy(batch.inputs)).items():
            found[name] = min(found.get(name, seconds), seconds)
    return found


@contextlib.contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use ``count`` threads; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def warm_up(call: Callable[[], object]) -> None:
    """Call until the caches hold what is read: eight times, or fewer that take a tenth of a second.

    Once isn't enough: many a third-level cache takes in only what the second-level cache has given up several times, so
    that a network's time falls for some calls after other work.
    """
    start = time.perf_counter()
    for _ in range(_WARM_UP_CALLS):
        call()
        if time.perf_counter() - start > _WARM_UP_SECONDS:
            break


def timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, by ``clock``, after untimed ones: see `warm_up`."""
    warm_up(call)
    start = clock()
    call()
    return clock() - start


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and no more while it is open."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _prepare(compiled: Compiled, batch: Batch) -> None:
    """Compile now what would be compiled at the first call, which would say so."""
    prepare = getattr(compiled, "prepare", None)
    if prepare is not None:
        prepare(*batch.inputs)


def _check_dense(model: Call, dense: Compiled, batch: Batch) -> float:
    original, compiled = run(model, batch.inputs), run(dense, batch.inputs)
    check_same_kind(original, compiled)
    return relative_error(original, compiled)


def _one_call(call: Call, inputs: tuple[Any, ...]) -> float:
    # Copies of their own, lest a network that remembers its last input looks fast.
    first, second = fresh_copy(inputs), fresh_copy(inputs)
    warm_up(lambda: call(*first))
    wait_for(tree_leaves(second))
    start = time.perf_counter()
    call(*second)
    wait_for(tree_leaves(second))
    return time.perf_counter() - start


def _paired(slower: Sequence[float], faster: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))
