"""``haste validate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from haste_compiler.cli.images import read_images
from haste_compiler.cli.networks import Network
from haste_compiler.cli.options import config_options, image_options, machine_options, network_options, rounds_option
from haste_compiler.cli.output import FellShort, emit, json_option, note
from haste_compiler.config import HasteConfig

if TYPE_CHECKING:
    from haste_compiler.validation.protocol import Compiled


@click.command(short_help="Compare the compiled MODEL with the original.")
@network_options
@image_options(required=True)
@click.option("--max-rel-error", type=float, help="Most that the relative error of the worst batch may be.")
@click.option("--min-agreement", type=float, help="Least part of the images with the original's class, 0 to 1.")
@click.option("--min-mac-reduction", type=float, help="Least net part of all multiply-adds that is saved, 0 to 1.")
@click.option("--min-speedup", type=float, help="Least speedup over the dense compile.")
@rounds_option(10)
@click.option("--time/--no-time", "timed", default=True, help="Measure time, or spare the dense compile.")
@click.option(
    "--artifact",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Validate this saved network against MODEL instead of compiling; without times.",
)
@config_options
@machine_options
@json_option
def validate(
    network: Callable[[], Network],
    images: str,
    limit: int,
    max_rel_error: float | None,
    min_agreement: float | None,
    min_mac_reduction: float | None,
    min_speedup: float | None,
    rounds: int,
    timed: bool,
    artifact: Path | None,
    config: HasteConfig,
    target: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare the compiled MODEL with the original on images: outputs, multiply-adds, time; in all and by layer.

    The images go through in calls as large as --input says. The exit code is 1 where a limit is missed.

    \b
    Examples:
      haste validate torchvision:resnet18 --images photographs/ --min-agreement 0.95 --min-speedup 1.0
      haste validate net.pt2 --images test.npz --config best.yaml --max-rel-error 0.2 --json
      haste validate torchvision:resnet18 --images photographs/ --artifact resnet18.haste
    """
    import haste_compiler
    from haste_compiler import ThresholdError

    loaded = network()
    shape = tuple(loaded.example[0].shape)
    pictures = read_images(images, shape, limit)
    compiled: Compiled
    if artifact is None:
        note(f"compiling {loaded.name}")
        compiled = haste_compiler.compile(loaded.model, target=target, config=config, threads=threads)
    else:
        compiled = haste_compiler.load(artifact)
    note(f"validating on {len(pictures.pixels)} images")
    shortfall = ""
    try:
        report = haste_compiler.validate(
            loaded.model,
            compiled,
            pictures.batches(shape[0]),
            labels=pictures.labels,
            max_rel_error=max_rel_error,
            min_agreement=min_agreement,
            min_mac_reduction=min_mac_reduction,
            min_speedup=min_speedup,
            rounds=rounds,
            time=timed and artifact is None,
        )
    except ThresholdError as error:
        report, shortfall = error.report, str(error)
    emit(as_json, {**report.to_dict(), "missed": shortfall or None}, str(report))
    if shortfall:
        raise FellShort(shortfall)
