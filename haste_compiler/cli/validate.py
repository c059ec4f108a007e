"""``haste validate``."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from haste_compiler.cli.images import read_images
from haste_compiler.cli.networks import Network
from haste_compiler.cli.options import (
    CONFIG_OPTIONS,
    LIMIT,
    MACHINE_OPTIONS,
    config_options,
    image_options,
    machine_options,
    network_options,
    output_option,
    precision_option,
    refuse_options,
    rounds_option,
)
from haste_compiler.cli.output import FellShort, emit, json_option, note
from haste_compiler.cli.processes import joined_processes
from haste_compiler.errors import HasteError, ValidationError
from haste_compiler.methods.haste.config import HasteConfig

if TYPE_CHECKING:
    from haste_compiler.validation import ValidationReport
    from haste_compiler.validation.processes import Processes
    from haste_compiler.validation.protocol import Compiled
    from haste_compiler.validation.thresholds import Thresholds


@click.command(short_help="Compare the compiled MODEL with the original.")
@network_options
@image_options(required=True)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Classes of a folder's images: a text file with a line for each, its name and its class's number.",
)
@click.option("--max-rel-error", type=LIMIT, help="Most that the relative error of the worst batch may be.")
@click.option("--min-agreement", type=LIMIT, help="Least part of the images with the original's class, 0 to 1.")
@click.option("--min-mac-reduction", type=LIMIT, help="Least net part of all multiply-adds that is saved, 0 to 1.")
@click.option("--min-speedup", type=LIMIT, help="Least speedup over the dense compile.")
@rounds_option(10)
@click.option("--time/--no-time", "timed", default=True, help="Measure time, or spare the dense compile.")
@click.option(
    "--artifact",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Validate this saved network against MODEL instead of compiling; without times.",
)
@output_option("File to write the outcome to as JUnit XML, which CI servers read.", names=("--junit-xml",))
@config_options
@machine_options
@precision_option
@json_option
def validate(
    network: Callable[[], Network],
    images: str,
    limit: int,
    labels: Path | None,
    max_rel_error: float | None,
    min_agreement: float | None,
    min_mac_reduction: float | None,
    min_speedup: float | None,
    rounds: int,
    timed: bool,
    artifact: Path | None,
    junit_xml: Path | None,
    config: HasteConfig,
    target: str,
    threads: int | None,
    precision: str | None,
    as_json: bool,
) -> None:
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
    if artifact is not None:
        times = ("rounds", "timed") if timed else ("rounds",)
        refuse_options("--artifact is compiled already", (*CONFIG_OPTIONS, *MACHINE_OPTIONS, *times))
    from haste_compiler.validation.junit import Case, cases_of, write_junit

    limits = _limits(timed and artifact is None, max_rel_error, min_agreement, min_mac_reduction, min_speedup)
    report: ValidationReport | None = None
    failure: HasteError | None = None
    start = time.perf_counter()
    with joined_processes() as processes:
        first = processes.rank == 0
        try:
            report = _compare(
                network(), images, limit, labels, artifact, config, target, threads, precision, rounds, timed, processes
            )
        except HasteError as error:
            failure = error
        verdicts = [] if report is None else limits.judge(report)
        shortfall = "; ".join(verdict.missed for verdict in verdicts if verdict.missed)
        if junit_xml is not None and first:
            if report is not None:
                cases = cases_of(report, verdicts)
            elif isinstance(failure, ValidationError):
                cases = [Case("outputs", failed=str(failure))]
            else:
                cases = [Case("validation", error=str(failure))]
            text = "" if report is None else str(report)
            write_junit(
                junit_xml, click.get_current_context().params["model"], cases, time.perf_counter() - start, text
            )
        if report is not None and first:
            emit(as_json, {**report.to_dict(), "missed": shortfall or None}, str(report))
    if failure is not None:
        raise failure
    if shortfall:
        raise FellShort(shortfall if first else "")


def _limits(measured: bool, *given: float | None) -> Thresholds:
    """The limits of the command line, and those of the project where it gives none."""
    from haste_compiler.validation.thresholds import Thresholds

    names = [field.name for field in dataclasses.fields(Thresholds)]
    own = dict(zip(names, given, strict=True))
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


def _compare(
    network: Network,
    images: str,
    limit: int,
    labels: Path | None,
    artifact: Path | None,
    config: HasteConfig,
    target: str,
    threads: int | None,
    precision: str | None,
    rounds: int,
    timed: bool,
    processes: Processes,
) -> ValidationReport:
    import haste_compiler

    first = processes.rank == 0
    shape = tuple(network.example[0].shape)
    pictures = read_images(images, shape, limit, labels)
    compiled: Compiled
    if artifact is not None:
        compiled = haste_compiler.load(artifact)
    else:
        if first:
            note(f"compiling {network.name}")
        compiled = made = haste_compiler.compile(
            network.model, target=target, config=config, threads=threads, precision=precision
        )
        # The first process calibrates and compiles; the others find both in the cache.
        for turn in (True, False) if processes.size > 1 else ():
            processes.together(lambda turn=turn: made.prepare(*network.example) if first == turn else None)  # type: ignore[misc]
    if first:
        shared = f", shared by {processes.size} processes" if processes.size > 1 else ""
        note(f"validating on {pictures.count} images{shared}")
    return haste_compiler.validate(
        network.model,
        compiled,
        pictures.share(shape[0], processes.rank, processes.size),
        labels=None if pictures.labels is None else True,
        rounds=rounds,
        time=timed and artifact is None,
        progress=sys.stderr.isatty(),
        distributed=processes.size > 1,
    )
