"""``validate``: what compiling did to a network's outputs, arithmetic and time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import nn

from haste_compiler.errors import InputError, ValidationError
from haste_compiler.passes.capture import evaluation_mode
from haste_compiler.validation.batches import Batch, Labels, read_batches
from haste_compiler.validation.comparison import OutputTally, relative_error
from haste_compiler.validation.layers import LayerTally
from haste_compiler.validation.protocol import Compiled
from haste_compiler.validation.report import LayerReport, Times, ValidationReport
from haste_compiler.validation.running import Outputs, checksums, identical, run, same_memory
from haste_compiler.validation.thresholds import Thresholds
from haste_compiler.validation.timing import measure, profile, use_threads

DENSE_ERROR_WORTH_A_WARNING = 1e-3


def validate(
    model: nn.Module,
    compiled: Compiled,
    inputs: Any,
    *,
    labels: Labels = None,
    max_rel_error: float | None = None,
    min_agreement: float | None = None,
    min_mac_reduction: float | None = None,
    min_speedup: float | None = None,
    rounds: int = 10,
    threads: int | None = None,
    progress: bool = False,
    time: bool = True,
) -> ValidationReport:
    """Run a model and what it was compiled to on the same inputs, and report how they compare.

    The model is run in evaluation mode, and put back into its own mode. Every call gets copies of the inputs; outputs
    are copied before the next call; all comparisons are made in float64. A NaN or infinity that only one of the two
    returns is an infinite error.

    Args:
        model: the original.
        compiled: what ``compile`` made of it.
        inputs: a tensor; a tuple of tensors, if the model takes several; or an iterable of such batches (a list, a
            ``DataLoader``), which is read once.
        labels: class of every image, integers, in the inputs' order; or True where each batch's last item is its
            labels, as a ``DataLoader`` gives them.
        max_rel_error: most that ``report.max_rel_error`` may be.
        min_agreement: least that ``report.agreement`` may be, 0 to 1.
        min_mac_reduction: least that ``report.mac_reduction`` may be, at most 1.
        min_speedup: least that ``report.speedup`` may be.
        rounds: how often each network is timed. Rounds go through the first batches, as many as there are rounds.
        threads: that PyTorch uses meanwhile; None: as many as the compiled network, which uses those it was compiled
            for.
        progress: show on standard error what is being done.
        time: measure time; False spares the dense compile.

    Raises:
        InputError: inputs, labels or limits are unusable, or there is no image in the inputs.
        CaptureError: the model cannot be captured, so that its multiply-adds cannot be counted.
        ValidationError: structure, shape or dtype of the outputs differ; the compiled network changes its inputs, the
            model's weights, or outputs that it returned before; its statistics do not fit the model; or (the subclass
            ``ThresholdError``, whose ``report`` holds the rest) a limit is missed: the message names each.
    """
    limits = Thresholds(max_rel_error, min_agreement, min_mac_reduction, min_speedup)
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    for name, number in (("rounds", rounds), ("threads", 1 if threads is None else threads)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a positive integer, not {number!r}")
    if min_speedup is not None and not time:
        raise InputError("min_speedup needs time=True")
    own = getattr(compiled, "threads", None)
    with evaluation_mode(model), use_threads(threads or own), _progress(progress) as tick:
        report = _validate(model, compiled, inputs, labels, rounds if time else 0, tick)
    limits.check(report)
    return report


def _validate(
    model: nn.Module,
    compiled: Compiled,
    inputs: Any,
    labels: Labels,
    rounds: int,
    tick: Callable[[str], object],
) -> ValidationReport:
    weights = checksums(model)
    outputs, layers = OutputTally(), LayerTally(model, compiled)
    warnings: dict[str, None] = {}
    timed: list[Batch] = []
    first: Outputs | None = None
    count = images = 0
    for batch in read_batches(inputs, labels):
        tick(f"batch {count + 1}")
        expected, found = _run_both(model, compiled, batch, warnings)
        outputs.add(expected, found, batch.labels)
        if count == 0:
            first = found
            _run_again(model, compiled, batch, found, warnings)
        if not batch.empty:
            layers.add(batch)
        if len(timed) < rounds and not batch.empty and batch.signature == (timed or [batch])[0].signature:
            timed.append(batch)
        count, images = count + 1, images + batch.images
    own = getattr(compiled, "threads", None)
    if timed and own not in (None, torch.get_num_threads()):
        warnings[f"the compiled network uses {_threads(own)}, the original {_threads(torch.get_num_threads())}"] = None
    times, reports = _measure(model, compiled, timed, layers, rounds, tick)
    changed = [name for name, checksum in checksums(model).items() if weights.get(name) != checksum]
    if changed:
        raise ValidationError(f"the model's tensors were changed while the networks ran: {', '.join(changed)}")
    if first is not None and not all(map(identical, first.leaves, first.copies)):
        raise ValidationError("the compiled network overwrote outputs that it had returned at an earlier call")
    compared = outputs.comparisons()
    agreements = [output.agreement for output in compared if output.agreement is not None]
    macs = layers.total()
    if times is not None and not times.dense_rel_error <= DENSE_ERROR_WORTH_A_WARNING:
        warnings[
            f"the dense compile differs from the original by {times.dense_rel_error:.1e}: its time is no yardstick"
        ] = None
    return ValidationReport(
        max_rel_error=max((output.worst_rel_error for output in compared), default=0.0),
        agreement=min(agreements, default=None),
        mac_reduction=macs.reduction,
        speedup=None if times is None else times.speedup,
        accuracy=outputs.accuracy(),
        macs=macs,
        outputs=compared,
        layers=reports,
        times=times,
        batches=count,
        images=images,
        warnings=(*warnings, *outputs.warnings()),
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _run_both(model: nn.Module, compiled: Compiled, batch: Batch, warnings: dict[str, None]) -> tuple[Outputs, Outputs]:
    expected, found = run(model, batch.inputs), run(compiled, batch.inputs)
    if found.changed_inputs:
        raise ValidationError("the compiled network changed its inputs")
    if expected.changed_inputs:
        warnings["the original changes its inputs; the compiled network does not"] = None
    return expected, found


def _run_again(model: nn.Module, compiled: Compiled, batch: Batch, first: Outputs, warnings: dict[str, None]) -> None:
    """Check that a second call leaves the first one's outputs alone, and whether it returns the same."""
    second = run(compiled, batch.inputs)
    shared = same_memory(first.leaves, second.leaves)
    if shared:
        # A model may return one of its own tensors each time.
        constant = same_memory(run(model, batch.inputs).leaves, run(model, batch.inputs).leaves)
        overwritten = [first.names[index] for index in shared if index not in constant]
        if overwritten:
            raise ValidationError(
                f"the compiled network returns the same memory at every call, which the next call overwrites: "
                f"{', '.join(overwritten)}"
            )
    if not all(identical(a, b) for a, b in zip(first.copies, second.copies, strict=True)):
        warnings[
            "two calls of the compiled network on the same input differ, by a relative error of "
            f"{relative_error(first, second):.1e}"
        ] = None


def _measure(
    model: nn.Module,
    compiled: Compiled,
    batches: list[Batch],
    layers: LayerTally,
    rounds: int,
    tick: Callable[[str], object],
) -> tuple[Times | None, tuple[LayerReport, ...]]:
    if not batches:
        return None, layers.reports(None, None)
    times = measure(model, compiled, batches, rounds, tick)
    tick("profiling")
    seconds = profile(compiled, batches[0])
    dense_seconds = seconds if compiled.dense is compiled else profile(compiled.dense, batches[0])
    reports = layers.reports(seconds, dense_seconds)
    if seconds is not None:
        known = {report.name for report in reports}
        rest = sum(value for name, value in seconds.items() if name not in known)
        times = replace(times, unattributed_seconds=rest)
    return times, reports


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str], object]]:
    columns = (SpinnerColumn(), TextColumn("validating: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda doing: bar.update(task, description=doing)
