"""Train a network in float32, then with ternary pointwise weights: `python -m haste_compiler.prom.train`."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from haste_compiler.errors import ConfigError, HasteError, first_line
from haste_compiler.files import replacing, write_text
from haste_compiler.progress import progress
from haste_compiler.prom.config import PromConfig
from haste_compiler.prom.data import Labelled, normalized, read_data
from haste_compiler.prom.networks import NETWORKS
from haste_compiler.prom.prepare import convert, prepare
from haste_compiler.prom.recipe import Phase, Recipe, parse_sizes
from haste_compiler.prom.statistics import estimate_statistics
from haste_compiler.prom.ternary import QUANTIZERS
from haste_compiler.prom.training import Trainer, accuracy

LOG, WEIGHTS, FLOAT_WEIGHTS = "log.json", "network.safetensors", "float.safetensors"
"""Files of a folder: the curves, the converted network's weights, and the float32 network's."""


@dataclass(frozen=True)
class Description:
    """Which network is trained.

    Attributes:
        network: a name in ``NETWORKS``.
        channels: of the images.
        classes: how many.
        width: what its channels are multiplied by.
    """

    network: str
    channels: int
    classes: int
    width: float

    def build(self) -> nn.Module:
        """Make it, with random weights."""
        made: nn.Module = NETWORKS[self.network](self.channels, self.classes, self.width)
        return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_trained(folder: Path, weights: str = WEIGHTS) -> nn.Module:
    """The trained network of a folder, in evaluation mode.

    Args:
        folder: where it was trained.
        weights: the converted network's, or ``FLOAT_WEIGHTS``.

    Raises:
        HasteError: there is none.
    """
    try:
        described = json.loads((folder / LOG).read_text(encoding="utf-8"))["network"]
        network = Description(**described).build()
        network.load_state_dict(load_file(folder / weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise HasteError(f"{folder} holds no trained network: {first_line(error)}") from None
    return network.eval()


def train(
    description: Description,
    data: tuple[Labelled, Labelled],
    phases: tuple[Phase, Phase],
    recipe: Recipe,
    config: PromConfig,
    folder: Path,
    start: Path | None = None,
    shown: bool = False,
) -> dict[str, Any]:
    """Train a network in float32, then prepared for integers, and convert it.

    The folder gets a checkpoint of each phase, from which a second call goes on, ``LOG``, ``WEIGHTS`` and
    ``FLOAT_WEIGHTS``. On as many threads the result is the same to the bit, interrupted or not.

    Args:
        description: the network.
        data: images to train and to test on.
        phases: in float32, and prepared.
        recipe: what they share.
        config: how it is prepared.
        folder: is made where there is none.
        start: weights instead of the first phase: a state dict, a checkpoint with one as ``model`` or ``network``, or a
            .safetensors file.
        shown: show progress.

    Returns:
        What the log holds.

    Raises:
        ConfigError, HasteError: see ``Trainer``; or ``start`` doesn't fit the network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = description.build()
    log: dict[str, Any] = {
        "network": asdict(description),
        "recipe": asdict(recipe),
        "config": asdict(config),
        "phases": {},
        "accuracy": {},
    }

    def write(phase: str) -> Any:
        def after(epochs: list[dict[str, Any]]) -> None:
            log["phases"][phase] = epochs
            write_text(folder / LOG, json.dumps(log, indent=2) + "\n")

        return after

    in_float, prepared_phase = phases
    with progress("training", shown) as tick:
        if start is None:
            trainer = Trainer(network, None, data, recipe, in_float, 0, folder / "float.pt")
            log["accuracy"]["float"] = trainer.run(tick, write(in_float.name))
            log["phases"][in_float.name] = trainer.log
        else:
            _load(network, start)
        teacher = copy.deepcopy(network).eval()
        _store(teacher, folder / FLOAT_WEIGHTS)
        example = normalized(data[0].resized(prepared_phase.sizes[-1]).pixels[:1])
        prepared = prepare(teacher, (example,), config)
        guide = teacher if prepared_phase.distillation else None
        trainer = Trainer(prepared, guide, data, recipe, prepared_phase, 1, folder / "prom.pt")
        trainer.run(tick, write(prepared_phase.name))
        tick("statistics of batch norms", 1.0)
        side = prepared_phase.sizes[-1]
        estimate_statistics(prepared, data[0].resized(side), recipe.batch)
        log["accuracy"]["prom"] = accuracy(prepared, data[1], side)[1]
        log["phases"][prepared_phase.name] = trainer.log
    _store(convert(prepared), folder / WEIGHTS)
    write_text(folder / LOG, json.dumps(log, indent=2) + "\n")
    return log


def _store(network: nn.Module, path: Path) -> None:
    with replacing(path) as made:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, made)


def _load(network: nn.Module, path: Path) -> None:
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        network.load_state_dict(state.get("model") or state.get("network") or state)
    except Exception as error:
        raise ConfigError(f"{path} holds no weights of this network: {first_line(error)}") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("images", metavar="TRAIN")
@click.argument("test", required=False)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--network", type=click.Choice(list(NETWORKS)), default="mobilenet_v2")
@click.option("--width", type=float, default=0.5, help="What the network's channels are multiplied by.")
@click.option("--side", type=int, default=32, help="Pixels that a folder's images are scaled to.")
@click.option("--epochs", default="12@24,5@32", help="In float32: EPOCHS or EPOCHS@PIXELS, several with commas.")
@click.option("--prom-epochs", default="8@32", help="Prepared, in the same form.")
@click.option(
    "--start", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Weights instead of --epochs."
)
@click.option("--batch", type=click.IntRange(1), default=128)
@click.option("--rate", type=float, default=0.2, help="Largest learning rate in float32.")
@click.option("--prom-rate", type=float, default=0.1, help="Largest learning rate, prepared.")
@click.option("--quantizer", type=click.Choice(list(QUANTIZERS)), default="twn", help="Of ternary weights.")
@click.option("--linear/--no-linear", default=False, help="Make linear layers ternary, too.")
@click.option(
    "--distillation", type=click.FloatRange(0, 1), default=0.7, help="The float32 network's part in the loss."
)
@click.option("--temperature", type=float, default=2.0, help="Of distillation.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--threads", type=click.IntRange(1), default=1)
def main(images: str, test: str | None, output: Path, **given: Any) -> None:
    """Train a network on the images TRAIN, in float32 and then with ternary pointwise weights, and count it on TEST.

    TRAIN and TEST are .npz files, folders with one folder of images a class, or TRAIN is "digits". Started again with
    the same options, training goes on after the last epoch that was finished.

    \b
    Examples:
      python -m haste_compiler.prom.train cifar10_train.npz cifar10_test.npz -o cifar
      python -m haste_compiler.prom.train digits -o digits --network digits --width 1 --epochs 10 --prom-epochs 6
    """
    torch.set_num_threads(given["threads"])
    try:
        data = read_data(images, test, given["side"])
        side = data[0].side
        recipe = Recipe(given["batch"], given["seed"], temperature=given["temperature"])
        phases = (
            Phase("float", parse_sizes(given["epochs"], side), given["rate"]),
            Phase("prom", parse_sizes(given["prom_epochs"], side), given["prom_rate"], 0.1, given["distillation"]),
        )
        description = Description(given["network"], data[0].pixels.shape[1], data[0].classes, given["width"])
        config = PromConfig(given["quantizer"], given["linear"])
        log = train(description, data, phases, recipe, config, output, given["start"], shown=True)
    except HasteError as error:
        raise click.ClickException(str(error)) from None
    for name, share in log["accuracy"].items():
        click.echo(f"{name}: {share:.2%} of the test images are right")


if __name__ == "__main__":
    main()
