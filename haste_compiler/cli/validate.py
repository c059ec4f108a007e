"""``haste validate``."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from haste_compiler.cli.images import ImageSource
from haste_compiler.cli.networks import Network, NetworkSource
from haste_compiler.cli.options import (
    COMPILE_OPTIONS,
    compile_options,
    gather,
    image_options,
    min_agreement_option,
    network_options,
    output_option,
    refuse_options,
    rounds_option,
)
from haste_compiler.cli.output import FellShort, emit, json_option, note
from haste_compiler.cli.parameter_types import EXISTING_FILE, LIMIT
from haste_compiler.cli.processes import joined_processes
from haste_compiler.errors import HasteError, ValidationError

if TYPE_CHECKING:
    from haste_compiler.validation import ValidationReport
    from haste_compiler.validation.junit import Case
    from haste_compiler.validation.processes import Processes
    from haste_compiler.validation.protocol import Compiled
    from haste_compiler.validation.thresholds import Thresholds, Verdict


@dataclass(frozen=True)
class _Comparison:
    """What is compared, on what, and how.

    Attributes:
        network: the original.
        images, labels: what it is called with, and a file of the images' classes.
        artifact: the saved network to compare with it; None: it is compiled, as ``how`` says.
        how: arguments of ``haste_compiler.compile``.
        rounds: how often each is timed.
        timed: whether times are wanted.
    """

    network: NetworkSource
    images: ImageSource
    labels: Path | None
    artifact: Path | None
    how: dict[str, Any]
    rounds: int
    timed: bool

    @property
    def measures_time(self) -> bool:
        """Whether there will be times: a saved network has no dense one beside it."""
        return self.timed and self.artifact is None

    def refuse_what_is_not_used(self) -> None:
        """Refuse options that say how to compile, or to measure, beside --artifact.

        Raises:
            UsageError: there are some.
        """
        if self.artifact is not None:
            times = ("rounds", "timed") if self.timed else ("rounds",)
            refuse_options("--artifact is compiled already", (*COMPILE_OPTIONS, *times))

    def run(self, processes: Processes) -> ValidationReport:
        """Compare, together with the other processes; raises what ``haste_compiler.validate`` raises."""
        import haste_compiler

        network = self.network.load()
        shape = tuple(network.example[0].shape)
        pictures = self.images.read(shape, labels=self.labels)
        compiled = self._compiled(network, pictures.count, processes)
        if processes.rank == 0:
            shared = f", shared by {processes.size} processes" if processes.size > 1 else ""
            note(f"validating on {pictures.count} images{shared}")
        return haste_compiler.validate(
            network.model,
            compiled,
            pictures.share(shape[0], processes.rank, processes.size),
            labels=None if pictures.labels is None else True,
            rounds=self.rounds,
            time=self.measures_time,
            progress=sys.stderr.isatty(),
            distributed=processes.size > 1,
        )

    def _compiled(self, network: Network, images: int, processes: Processes) -> Compiled:
        """The compiled network: for whole calls, and for what so many images leave for the last one."""
        import haste_compiler

        if self.artifact is not None:
            return haste_compiler.load(self.artifact)
        first = processes.rank == 0
        if first:
            note(f"compiling {network.name}")
        compiled = haste_compiler.compile(network.model, **self.how)
        size = len(network.example[0])

        def prepare() -> None:
            for rows in sorted({min(size, images), images % size} - {0}, reverse=True):
                compiled.prepare(*(tensor[:rows] for tensor in network.example))

        # The first process calibrates and compiles; the others find both in the cache.
        for turn in (True, False):
            processes.together(lambda turn=turn: prepare() if first == turn else None)  # type: ignore[misc]
        return compiled


@click.command(short_help="Compare the compiled MODEL with the original.")
@network_options()
@image_options(required=True)
@click.option(
    "--labels",
    type=EXISTING_FILE,
    help="Classes of a folder's images: a text file with a line for each, its name and its class's number.",
)
@click.option("--max-rel-error", type=LIMIT, help="Most that the relative error of the worst batch may be.")
@min_agreement_option
@click.option("--min-mac-reduction", type=LIMIT, help="Least net part of all multiply-adds that is saved, 0 to 1.")
@click.option("--min-speedup", type=LIMIT, help="Least speedup over the dense compile.")
@rounds_option(10)
@click.option("--time/--no-time", "timed", default=True, help="Measure time, or spare the dense compile.")
@click.option(
    "--artifact",
    type=EXISTING_FILE,
    help="Validate this saved network against MODEL instead of compiling; without times.",
)
@output_option("File to write the outcome to as JUnit XML, which CI servers read.", names=("--junit-xml",))
@compile_options()
@json_option
@gather("comparison", _Comparison, [field.name for field in dataclasses.fields(_Comparison)])
def validate(comparison: _Comparison, junit_xml: Path | None, as_json: bool, **limits: float | None) -> None:
    """Compare the compiled MODEL with the original on images: outputs, multiply-adds, time; in all and by layer.

    The images go through in calls as large as --input says, read from the folder as they are needed. The exit code is 1
    where a limit is missed. Limits that aren't given are those of [tool.haste] in the nearest pyproject.toml.

    Under torchrun the processes share the images, and the first one prints the report.

    \b
    Examples:
      haste validate torchvision:resnet18 --images photographs/ --min-agreement 0.95 --min-speedup 1.0
      haste validate net.pt2 --images test.npz --config best.yaml --max-rel-error 0.2 --json
      haste validate torchvision:resnet18 --images photographs/ --artifact resnet18.haste
      haste validate nets.py:small --input 8x3x64x64 --images test/ --labels classes.txt --junit-xml report.xml
      torchrun --nproc-per-node 2 -m haste_compiler.cli validate torchvision:resnet18 --images imagenet/ --limit 50000
    """
    comparison.refuse_what_is_not_used()
    thresholds = _thresholds(comparison.measures_time, limits)
    report: ValidationReport | None = None
    failure: HasteError | None = None
    start = time.perf_counter()
    with joined_processes() as processes:
        first = processes.rank == 0
        try:
            report = comparison.run(processes)
        except HasteError as error:
            failure = error
        verdicts = [] if report is None else thresholds.judge(report)
        shortfall = "; ".join(verdict.missed for verdict in verdicts if verdict.missed)
        if junit_xml is not None and first:
            from haste_compiler.validation.junit import write_junit

            text, spent = "" if report is None else str(report), time.perf_counter() - start
            write_junit(junit_xml, comparison.network.model, _cases(report, verdicts, failure), spent, text)
        if report is not None and first:
            emit(as_json, {**report.to_dict(), "missed": shortfall or None}, str(report))
    if failure is not None:
        raise failure
    if shortfall:
        raise FellShort(shortfall if first else "")


def _cases(report: ValidationReport | None, verdicts: Sequence[Verdict], failure: HasteError | None) -> list[Case]:
    """The outcome as JUnit's cases: those of the report, or the one that says why there is none."""
    from haste_compiler.validation.junit import Case, cases_of

    if report is not None:
        return cases_of(report, verdicts)
    if isinstance(failure, ValidationError):
        return [Case("outputs", failed=str(failure))]
    return [Case("validation", error=str(failure))]


def _thresholds(measured: bool, own: Mapping[str, float | None]) -> Thresholds:
    """The limits of the command line, and those of the project where it gives none."""
    from haste_compiler.validation.thresholds import Thresholds

    project, file = Thresholds.of_project(Path.cwd())
    if own["min_speedup"] is not None and not measured:
        raise click.UsageError("--min-speedup needs times: neither --no-time nor --artifact")
    taken = [name for name, limit in vars(project).items() if limit is not None and own[name] is None]
    if not measured and "min_speedup" in taken:
        project = dataclasses.replace(project, min_speedup=None)
        taken.remove("min_speedup")
    if taken and os.environ.get("RANK", "0") == "0":
        note(f"{', '.join(taken)} from {file}")
    return project.updated(**own)
