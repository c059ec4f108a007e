"""Options that several commands have, gathered into one value each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from haste_compiler.cli.networks import Network, load_network
from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.methods.haste.config import HasteConfig

Command = Callable[..., Any]

_PRESETS: dict[str, Callable[[], HasteConfig]] = {
    "default": HasteConfig,
    "paper": HasteConfig.paper,
    "exact": HasteConfig.exact,
    "dense": lambda: HasteConfig(enabled=False),
}


_NONE = "none"


def _or_none(kind: type[int] | type[float]) -> Callable[[str], int | float | str]:
    """Reads a number, or "none"."""

    def read(text: str) -> int | float | str:
        try:
            return _NONE if text == _NONE else kind(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no number, nor none") from None

    return read


def _limit(text: str) -> float:
    """Reads a number to hold something against; NaN would miss it or not as the comparison is written."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise click.BadParameter(f"{text!r} is no number")
    return number


_limit.__name__ = "float"
LIMIT = click.types.FuncParamType(_limit)
"""A limit or a budget."""


def _patch(text: str) -> int | list[int]:
    """Reads a side in output pixels, or HEIGHTxWIDTH."""
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a side such as 8 nor HEIGHTxWIDTH") from None
    return sides[0] if len(sides) == 1 else sides


_FIELDS: dict[str, dict[str, Any]] = {
    "num_hyperplanes": {"type": int, "help": "Bits of a channel's code; more merge less."},
    "tolerance": {
        "type": _or_none(float),
        "metavar": "FLOAT|none",
        "help": "Predicted damage that a merged channel may do; none: any.",
    },
    "flat_tolerance": {"type": float, "help": "How far from constant a dropped channel may be."},
    "patch_size": {"type": _patch, "metavar": "SIDE|HxW", "help": "Of a patch, in output pixels."},
    "merge": {"type": click.Choice(["mean", "projection"]), "help": "What a group becomes."},
    "skip": {"type": click.Choice(["none", "zeros", "flat"]), "help": "Channels dropped before grouping."},
    "nonzeros": {
        "type": _or_none(int),
        "metavar": "INTEGER|none",
        "help": "Of each hyperplane; none: a third of its entries.",
    },
    "seed": {"type": int, "help": "Of the hyperplanes."},
    "min_channels": {"type": int, "help": "Convolutions with fewer input channels stay dense."},
    "min_reads": {"type": int, "help": "Convolutions that read each input less often stay dense."},
    "winograd": {
        "type": click.Choice(WINOGRAD_SIZES),
        "help": "Largest tiles of Winograd's algorithm for convolutions that stay dense; 0: not used.",
    },
    "cost_model": {"default": None, "help": "Only layers that are predicted to be faster, or all eligible ones."},
}
"""The fields of ``HasteConfig`` that are options, and click's arguments for each."""

CONFIG_OPTIONS = ("config_file", "preset", *_FIELDS)
"""Parameters of commands that say how a network is compiled."""

MACHINE_OPTIONS = ("target", "threads", "precision")

_MAYBE_NONE = ("tolerance", "nonzeros")


def output_option(
    help: str, required: bool = False, names: tuple[str, ...] = ("-o", "--output")
) -> Callable[[Command], Command]:
    """Adds -o, or an option of other names; refuses at once, not after all the work, what can't be written."""

    def check(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and not path.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no folder {path.parent}")
        return path

    kind = click.Path(dir_okay=False, writable=True, path_type=Path)
    return click.option(*names, required=required, type=kind, callback=check, help=help)


def _usual(name: str) -> str:
    """What a field is in the default configuration, as one would type it."""
    value = getattr(HasteConfig(), name)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "about 8" if value is None else str(value)


def config_options(command: Command) -> Command:
    """Adds --config, --preset and the fields of ``HasteConfig``; the command gets ``config``."""

    @functools.wraps(command)
    def wrapped(*args: Any, config_file: Path | None, preset: str | None, **options: Any) -> Any:
        if config_file and preset:
            raise click.UsageError("--config and --preset exclude each other", click.get_current_context())
        given = {name: value for name in _FIELDS if (value := options.pop(name)) is not None}
        changes = {name: None if name in _MAYBE_NONE and value == _NONE else value for name, value in given.items()}
        base = HasteConfig.load(config_file) if config_file else _PRESETS[preset or "default"]()
        return command(*args, config=base.replace(**changes), **options)

    for name, arguments in reversed(_FIELDS.items()):
        flag = "--" + name.replace("_", "-")
        both = f"{flag}/--no-{flag[2:]}" if name == "cost_model" else flag
        usual = f"{arguments['help']}  [default preset: {_usual(name)}]"
        wrapped = click.option(both, **{**arguments, "help": usual})(wrapped)
    wrapped = click.option(
        "--preset",
        type=click.Choice(list(_PRESETS)),
        help="Configuration to begin with. default: merge what does little damage, where it is predicted to be faster; "
        "paper: the published method; exact: only what changes nothing; dense: merge nothing.",
    )(wrapped)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Configuration to begin with, .json or .yaml; the options below change single fields of it.",
    )(wrapped)


def refuse_options(reason: str, names: Collection[str]) -> None:
    """Refuse, rather than pass over, options that were given beside one that they don't go with.

    Args:
        reason: why they don't, such as "--artifact is compiled already".
        names: parameters of the running command.

    Raises:
        UsageError: some of them are on the command line; the message has their flags.
    """
    context = click.get_current_context()
    given = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{reason}: it doesn't go with {', '.join(given)}", context)


def network_options(command: Command) -> Command:
    """Adds MODEL, --weights and --input; the command gets ``network``, a function that loads it."""

    @functools.wraps(command)
    def wrapped(*args: Any, model: str, weights: str | None, inputs: tuple[str, ...], **options: Any) -> Any:
        def network() -> Network:
            return load_network(model, weights, inputs)

        return command(*args, network=network, **options)

    wrapped = click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="SIZES",
        help="What it is called with, such as 1x3x224x224; commas between several arguments (1x3x32x32,1x10:int64). "
        "Again for another signature. None: what the network is known to take.",
    )(wrapped)
    wrapped = click.option("--weights", metavar="FILE|random", help="A .safetensors file; or random ones.")(wrapped)
    return click.argument("model")(wrapped)


def machine_options(command: Command) -> Command:
    """Adds --target and --threads."""
    command = click.option("--threads", type=click.IntRange(1), help="That a call uses; default: as PyTorch.")(command)
    return click.option(
        "--target",
        default="llvm",
        show_default=True,
        help="llvm: this machine; or such as 'llvm -mcpu=haswell', 'llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76'.",
    )(command)


def precision_option(command: Command) -> Command:
    """Adds --precision."""
    return click.option(
        "--precision",
        type=click.Choice(["fp32", "tf32", "bf16"]),
        help="Of products on a card (--target cuda): tf32 and bf16 round operands for its tensor cores. "
        "Default: as PyTorch there, convolutions tf32 and linear layers fp32; a CPU's are fp32.",
    )(command)


def rounds_option(default: int) -> Callable[[Command], Command]:
    """Adds --rounds."""
    return click.option(
        "--rounds", type=click.IntRange(1), default=default, show_default=True, help="How often each is timed."
    )


def image_options(required: bool) -> Callable[[Command], Command]:
    """Adds --images and --limit."""

    def add(command: Command) -> Command:
        command = click.option(
            "--limit", type=click.IntRange(1), default=256, show_default=True, help="Most images that are used."
        )(command)
        return click.option(
            "--images",
            **({"required": True} if required else {"default": "random", "show_default": True}),
            metavar="FOLDER|FILE.npz|random",
            help="A folder (one folder a class gives labels); an .npz file with `images`, float32 (N, C, H, W), and "
            "maybe `labels`; or made-up images.",
        )(command)

    return add
