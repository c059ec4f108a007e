"""``haste report``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from haste_compiler.cli.images import ImageSource
from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import (
    compile_options,
    image_options,
    min_agreement_option,
    network_options,
    output_option,
    rounds_option,
)
from haste_compiler.cli.output import emit, json_option, note
from haste_compiler.cli.parameter_types import EXISTING_FILE, LIMIT


@click.command(short_help="Show on a page what compiling made of MODEL, layer by layer.")
@network_options()
@image_options(required=False, most=32)
@output_option("Page to write, .html.", required=True)
@click.option("--search", type=EXISTING_FILE, help="What `haste search --json` printed: its curve is drawn.")
@click.option("--max-rel-error", type=LIMIT, help="Most that the relative error of the worst batch may be.")
@min_agreement_option
@click.option("--min-mac-reduction", type=LIMIT, help="Least net part of all multiply-adds that is saved, 0 to 1.")
@click.option("--min-speedup", type=LIMIT, help="Least speedup over the dense compile.")
@rounds_option(10)
@compile_options()
@json_option
def report(
    network: NetworkSource,
    images: ImageSource,
    output: Path,
    search: Path | None,
    rounds: int,
    how: dict[str, Any],
    as_json: bool,
    **limits: float | None,
) -> None:
    """Compile MODEL, compare it with the original on images, and write one page that shows what became of each layer.

    The page is one file and needs nothing else: speed, arithmetic and agreement against the dense network and the
    limits; the network as a graph; time, work and error by layer; where in the first image work was done. Limits that
    aren't given are those of [tool.haste] in the nearest pyproject.toml; missing one is shown, and no error.

    \b
    Examples:
      haste report torchvision:resnet18 --images photographs/ -o report.html
      haste report net.pt2 --images test.npz --config best.yaml --min-agreement 0.95 -o report.html
      haste report net.onnx --precision int8 -o report.html
    """
    from haste_compiler.report.libraries import require

    require()
    import haste_compiler
    from haste_compiler.report.report import Report
    from haste_compiler.report.search_found import read_search
    from haste_compiler.validation.thresholds import Thresholds

    project, _ = Thresholds.of_project(Path.cwd())
    held = project.updated(**limits)
    found = None if search is None else read_search(search)
    loaded = network.load()
    shape = tuple(loaded.example[0].shape)
    pictures = images.read(shape)
    note(f"compiling {loaded.name}")
    compiled = haste_compiler.compile(loaded.model, **how)
    note(f"looking at {pictures.count} images")
    made: Report = compiled.report(
        pictures.share(shape[0], 0, 1),
        labels=None if pictures.labels is None else True,
        search=found,
        limits=vars(held),
        rounds=rounds,
        progress=sys.stderr.isatty(),
    )
    evidence = dataclasses.replace(made.evidence, name=loaded.name)
    dataclasses.replace(made, evidence=evidence).save(output)
    data = {"output": str(output), "bytes": output.stat().st_size, "images": pictures.count}
    emit(as_json, data, f"{output}: {output.stat().st_size / 1e6:.1f} MB, {len(evidence.layers)} layers")
