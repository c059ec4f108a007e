"""``haste energy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import network_options
from haste_compiler.cli.output import emit, json_option

if TYPE_CHECKING:
    from haste_compiler.energy.arithmetic import Accumulation, Process


@click.command(short_help="Estimate what MODEL's products cost in float16, int8 and ternary arithmetic.")
@network_options()
@click.option("--process", type=click.Choice(["7nm", "45nm"]), default="7nm", help="Chip whose operations are counted.")
@click.option(
    "--sums",
    "accumulation",
    type=click.Choice(["narrow", "wide"]),
    default="narrow",
    help="Price sums as wide as the factors, or as int32 and float32.",
)
@json_option
def energy(network: NetworkSource, process: str, accumulation: str, as_json: bool) -> None:
    """Estimate the energy of MODEL's multiply-adds, and the storage of its weights, in each number format.

    Nothing is compiled or measured: published picojoules of every operation are added up; memory isn't counted.

    \b
    Examples:
      haste energy torchvision:mobilenet_v2
      haste energy net.onnx --process 45nm --sums wide --json
    """
    import haste_compiler

    loaded = network.load()
    chip, sums = cast("Process", process), cast("Accumulation", accumulation)
    estimate = haste_compiler.estimate_energy(loaded.model, loaded.example, process=chip, accumulation=sums)
    emit(as_json, estimate.to_dict(), str(estimate))
