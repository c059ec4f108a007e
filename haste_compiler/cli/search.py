"""``haste search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from haste_compiler.cli.images import ImageSource
from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import (
    compile_options,
    image_options,
    min_agreement_option,
    network_options,
    output_option,
)
from haste_compiler.cli.output import FellShort, emit, json_option, note
from haste_compiler.cli.parameter_types import LIMIT


@click.command(short_help="Find settings for every layer within a budget.")
@network_options()
@image_options(required=False)
@click.option("--max-accuracy-drop", type=LIMIT, help="Most of top-1 that may be lost, 0.01 being one point.")
@min_agreement_option
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
@compile_options(precision=False, without=("max_output_error",))
@json_option
def search(
    network: NetworkSource,
    images: ImageSource,
    save: Literal["macs", "time"],
    output: Path | None,
    plot: Path | None,
    how: dict[str, Any],
    as_json: bool,
    **budgets: Any,
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
    loaded = network.load()
    shape = tuple(loaded.example[0].shape)
    pictures = None if images.made_up else images.read(shape)
    note(f"searching on {'made-up' if pictures is None else pictures.count} images")
    shortfall = ""
    try:
        result = haste_compiler.search(
            loaded.model,
            None if pictures is None else pictures.pixels,
            labels=None if pictures is None else pictures.labels,
            input_shape=shape[1:],
            save=save,
            **budgets,
            **how,
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
