"""``validate``: what compiling did to a network's outputs, arithmetic and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn

from haste_compiler.errors import InputError, ValidationError
from haste_compiler.graph.arguments import Model, as_module
from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.graph.checksums import changed, checksums
from haste_compiler.progress import Step, endless
from haste_compiler.validation.batches import Batch, Labels, read_batches
from haste_compiler.validation.comparison import OutputTally, relative_error
from haste_compiler.validation.layers import LayersFound, LayerTally
from haste_compiler.validation.processes import Processes
from haste_compiler.validation.protocol import Compiled
from haste_compiler.validation.report import Times, ValidationReport
from haste_compiler.validation.running import Outputs, identical, run, same_memory
from haste_compiler.validation.thresholds import Limits, Thresholds
from haste_compiler.validation.timing import measure, profile, use_threads

DENSE_ERROR_WORTH_A_WARNING = 1e-3


class Options(Limits, total=False):
    """How ``validate`` measures time, and the limits that it checks.

    Attributes:
        rounds: how often each network is timed, 10 times by default. Rounds go through the first batches, as many as
            there are rounds.
        threads: that PyTorch uses meanwhile; None, the default: as many as the compiled network, which uses those it
            was compiled for.
    """

    rounds: int
    threads: int | None


def validate(
    model: Model,
    compiled: Compiled,
    inputs: Any,
    *,
    labels: Labels = None,
    progress: bool = False,
    time: bool = True,
    distributed: bool = False,
    **options: Unpack[Options],
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
        progress: show on standard error what is being done: a bar on a terminal, elsewhere a line a phase.
        time: measure time; False spares the dense compile.
        distributed: share the batches among the processes of ``torch.distributed``'s default group. Each is given its
            own share of the inputs and labels: of all batches in order, every so many-th, the process with rank 0
            beginning with the first. All return the same report, which is that of one process bit by bit, times aside
            (the process with rank 0 measures them), provided that all use as many threads as it does.
        options: ``rounds`` and ``threads``, see ``Options``; and limits, of which none is set where none is given:
            ``max_rel_error``, most that ``report.max_rel_error`` may be; ``min_agreement``, least that
            ``report.agreement`` may be, 0 to 1; ``min_mac_reduction``, least that ``report.mac_reduction`` may be, at
            most 1; ``min_speedup``, least that ``report.speedup`` may be.

    Raises:
        InputError: inputs, labels or limits are unusable, or there is no image in the inputs.
        CaptureError: the model cannot be captured, so that its multiply-adds cannot be counted.
        ValidationError: structure, shape or dtype of the outputs differ; the compiled network changes its inputs, the
            model's weights, or outputs that it returned before; its statistics do not fit the model; or (the subclass
            ``ThresholdError``, whose ``report`` holds the rest) a limit is missed: the message names each.
    """
    rounds, threads = options.pop("rounds", 10), options.pop("threads", None)
    given: Limits = options
    limits = Thresholds(**given)
    network: nn.Module = as_module(model)
    if not isinstance(network, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(network).__name__}")
    for name, number in (("rounds", rounds), ("threads", 1 if threads is None else threads)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a positive integer, not {number!r}")
    if limits.min_speedup is not None and not time:
        raise InputError("min_speedup needs time=True")
    own = getattr(compiled, "threads", None)
    processes = Processes.of_default_group() if distributed else Processes()
    shown = progress and processes.rank == 0
    with evaluation_mode(network), use_threads(threads or own), endless("validating", shown) as tick:
        report = _Validation(network, compiled, processes, rounds if time else 0, tick).run(inputs, labels)
    limits.check(report)
    return report


class _Found(NamedTuple):
    """What one process found on its share of the batches."""

    outputs: OutputTally
    layers: LayersFound
    warnings: list[tuple[int, str]]
    batches: int
    images: int


class _Measured(NamedTuple):
    """What the first process measured."""

    times: Times | None
    seconds: Mapping[str, float] | None
    dense_seconds: Mapping[str, float] | None
    warnings: list[str]


class _Validation:
    """One validation, or one process's part in it."""

    def __init__(
        self,
        model: nn.Module,
        compiled: Compiled,
        processes: Processes,
        rounds: int,
        tick: Step,
    ) -> None:
        self._model, self._compiled, self._processes = model, compiled, processes
        self._rounds, self._tick = rounds, tick
        self._layers = LayerTally(model, compiled)
        self._warnings: list[tuple[int, str]] = []
        self._timed: list[Batch] = []
        self._weights = checksums(model)

    def run(self, inputs: Any, labels: Labels) -> ValidationReport:
        """Compare, then measure; every process returns the same report."""
        found = self._processes.together(lambda: self._compare(inputs, labels))
        images = sum(each.images for each in found)
        if not images:
            raise InputError("there is nothing to validate on: inputs hold no images")
        outputs = OutputTally.joined(each.outputs for each in found)
        self._layers.join(each.layers for each in found)
        first = self._processes.rank == 0
        measured = self._processes.together(self._measure if first else lambda: _Measured(None, None, None, []))[0]
        warned = sorted((warning for each in found for warning in each.warnings), key=lambda warning: warning[0])
        compared = outputs.comparisons()
        agreements = [output.agreement for output in compared if output.agreement is not None]
        reports = self._layers.reports(measured.seconds, measured.dense_seconds)
        times = measured.times
        if times is not None and measured.seconds is not None:
            known = {report.name for report in reports}
            rest = sum(value for name, value in measured.seconds.items() if name not in known)
            times = replace(times, unattributed_seconds=rest)
        macs = self._layers.total()
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
            batches=sum(each.batches for each in found),
            images=images,
            warnings=(*dict.fromkeys([*(text for _, text in warned), *measured.warnings]), *outputs.warnings()),
        )

    def _compare(self, inputs: Any, labels: Labels) -> _Found:
        outputs = OutputTally()
        first: Outputs | None = None
        count = images = 0
        for batch in read_batches(inputs, labels, may_be_none=True):
            index = count * self._processes.size + self._processes.rank
            self._tick("comparing", f"batch {index + 1}")
            expected, found = self._run_both(batch, index)
            outputs.add(expected, found, batch.labels, index)
            first = first or found
            if index == 0:
                self._run_again(batch, found)
            if not batch.empty:
                self._layers.add(batch)
            alike = batch.signature == (self._timed or [batch])[0].signature
            if len(self._timed) < self._rounds and not batch.empty and alike:
                self._timed.append(batch)
            count, images = count + 1, images + batch.images
        self._check_untouched()
        if first is not None and not all(map(identical, first.leaves, first.copies)):
            raise ValidationError("the compiled network overwrote outputs that it had returned at an earlier call")
        return _Found(outputs, self._layers.found(), self._warnings, count, images)

    def _check_untouched(self) -> None:
        if names := changed(self._model, self._weights):
            raise ValidationError(f"the model's tensors were changed while the networks ran: {', '.join(names)}")

    def _run_both(self, batch: Batch, index: int) -> tuple[Outputs, Outputs]:
        expected, found = run(self._model, batch.inputs), run(self._compiled, batch.inputs)
        if found.changed_inputs:
            raise ValidationError("the compiled network changed its inputs")
        if expected.changed_inputs:
            self._warnings.append((index, "the original changes its inputs; the compiled network does not"))
        return expected, found

    def _run_again(self, batch: Batch, first: Outputs) -> None:
        """Check that a second call leaves the first one's outputs alone, and whether it returns the same."""
        second = run(self._compiled, batch.inputs)
        shared = same_memory(first.leaves, second.leaves)
        if shared:
            # A model may return one of its own tensors each time.
            constant = same_memory(run(self._model, batch.inputs).leaves, run(self._model, batch.inputs).leaves)
            overwritten = [first.names[index] for index in shared if index not in constant]
            if overwritten:
                raise ValidationError(
                    f"the compiled network returns the same memory at every call, which the next call overwrites: "
                    f"{', '.join(overwritten)}"
                )
        if not all(identical(a, b) for a, b in zip(first.copies, second.copies, strict=True)):
            error = relative_error(first, second)
            text = f"two calls of the compiled network on the same input differ, by a relative error of {error:.1e}"
            self._warnings.append((0, text))

    def _measure(self) -> _Measured:
        if not self._timed:
            return _Measured(None, None, None, [])
        warnings, own = [], getattr(self._compiled, "threads", None)
        if own not in (None, torch.get_num_threads()):
            warnings.append(
                f"the compiled network uses {_threads(own)}, the original {_threads(torch.get_num_threads())}"
            )
        times = measure(self._model, self._compiled, self._timed, self._rounds, self._tick)
        self._tick("profiling", "")
        seconds, dense = profile(self._compiled, self._timed[0]), self._compiled.dense
        dense_seconds = seconds if dense is self._compiled else profile(dense, self._timed[0])
        if not times.dense_rel_error <= DENSE_ERROR_WORTH_A_WARNING:
            warnings.append(
                f"the dense compile differs from the original by {times.dense_rel_error:.1e}: its time is no yardstick"
            )
        self._check_untouched()
        return _Measured(times, seconds, dense_seconds, warnings)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
