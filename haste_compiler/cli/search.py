"""``haste search``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click

from haste_compiler.cli.images import read_images
from haste_compiler.cli.networks import Network
from haste_compiler.cli.options import (
    LIMIT,
    config_options,
    image_options,
    machine_options,
    network_options,
    output_option,
)
from haste_compiler.cli.output import FellShort, emit, json_option, note
from haste_compiler.methods.haste.config import HasteConfig


@click.command(short_help="Find settings for every layer within a budget.")
@network_options
@image_options(required=False)
@click.option("--max-accuracy-drop", type=LIMIT, help="Most of top-1 that may be lost, 0.01 being one point.")
@click.option("--min-agreement", type=LIMIT, help="Least part of the images with the original's class, 0 to 1.")
@click.option("--max-output-error", type=LIMIT, help="Largest relative error of the outputs.")
@click.option("--target-macs", type=LIMIT, help="Least net part of all multiply-adds that is saved, 0 to 1.")
@click.option("--target-latency", type=LIMIT, help="Most milliseconds for a call with one image.")
@click.option(
    "--save",
    type=click.Choice(["macs", "time"]),
    default="macs",
    show_default=True,
    help="What a budget on quality is spent on: multiply-adds, or time as this machine measures it.",
)
@output_option("Configuration to write, .json or .yaml.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Pareto front to draw, .png or .svg.")
@config_options
@machine_options
@json_option
def search(
    network: Callable[[], Network],
    images: str,
    limit: int,
    max_accuracy_drop: float | None,
    min_agreement: float | None,
    max_output_error: float | None,
    target_macs: float | None,
    target_latency: float | None,
    save: Literal["macs", "time"],
    output: Path | None,
    plot: Path | None,
    config: HasteConfig,
    target: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find settings for every layer of MODEL within one budget, and write them as a configuration.

    Give exactly one budget. Savings depend on the images: take some hundreds like those the network will see. The exit
    code is 1 where --target-macs or --target-latency can't be reached; the nearest is reported and written then.

    \b
    Examples:
      haste search torchvision:resnet18 --images photographs/ --max-accuracy-drop 0.01 -o best.yaml
      haste search net.pt2 --images train.npz --target-macs 0.3 -o best.json --plot front.png
    """
    import haste_compiler
    from haste_compiler import BudgetError

    if output is not None and output.suffix not in (".json", ".yaml", ".yml"):
        raise click.BadParameter(f"{output} must end in .json or .yaml", click.get_current_context(), param_hint="-o")
    loaded = network()
    shape = tuple(loaded.example[0].shape)
    pictures = None if images == "random" else read_images(images, shape, limit)
    note(f"searching on {'made-up' if pictures is None else pictures.count} images")
    shortfall = ""
    try:
        result = haste_compiler.search(
            loaded.model,
            None if pictures is None else pictures.pixels,
            labels=None if pictures is None else pictures.labels,
            input_shape=shape[1:],
            max_accuracy_drop=max_accuracy_drop,
            min_agreement=min_agreement,
            max_output_error=max_output_error,
            target_macs=target_macs,
            target_latency=target_latency,
            save=save,
            target=target,
            threads=threads,
            config=config,
        )
    except BudgetError as error:
        result, shortfall = error.result, str(error)
    if output is not None:
        result.config.save(output)
    if plot is not None:
        result.plot(plot)
    emit(as_json, {**result.to_dict(), "missed": shortfall or None}, str(result))
    if shortfall:
        raise FellShort(shortfall)
