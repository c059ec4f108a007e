"""Options that several commands have: each is declared here once, and a decorator adds it to a command.

Most decorators gather their options into one argument of the command.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from haste_compiler.cli.images import ImageSource
from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.parameter_types import EXISTING_FILE, LIMIT, NONE, click_type
from haste_compiler.methods.config import stored_fields
from haste_compiler.methods.option import Option
from haste_compiler.methods.registry import config_class, method_options, method_precisions, method_presets

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

_OR_NONE: Mapping[Any, str] = {int: "INTEGER|none", float: "FLOAT|none"}
"""What help shows for a number that may be none."""


def gather(parameter: str, make: Callable[..., Any], names: Collection[str]) -> Decorator:
    """Pass a command some of its options as one argument.

    Args:
        parameter: what the argument is called.
        make: gets the options by their names and returns the argument.
        names: of the options.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(*args: Any, **options: Any) -> Any:
            taken = {name: options.pop(name) for name in names}
            return command(*args, **{parameter: make(**taken)}, **options)

        return wrapped

    return decorate


def output_option(help: str, required: bool = False, names: tuple[str, ...] = ("-o", "--output")) -> Decorator:
    """Adds -o, or an option of other names; refuses at once, not after all the work, what can't be written."""

    def check(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and not path.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no folder {path.parent}")
        return path

    kind = click.Path(dir_okay=False, writable=True, path_type=Path)
    return click.option(*names, required=required, type=kind, callback=check, help=help)


def _parameter(option: Option) -> str:
    """What click calls a method's option."""
    return option.name.replace("-", "_")


def _usual(value: Any, option: Option) -> str:
    """What an option is by default, as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return option.unset if value is None else str(value)


def _option(option: Option, usual: str) -> Decorator:
    """One option of a method."""
    flag, text = f"--{option.name}", f"{option.help}  [default preset: {usual}]"
    if option.type is bool:
        return click.option(f"{flag}/--no-{option.name}", default=None, help=text)
    metavar = _OR_NONE.get(option.type) if option.none else option.metavar
    return click.option(flag, type=click_type(option), metavar=metavar or None, help=text)


def _method_options() -> dict[str, Decorator]:
    """The options of all methods by their parameters; of several of one name the first serves all."""
    found: dict[str, Decorator] = {}
    for method, options in method_options().items():
        usual = config_class(method)()
        for option in options:
            found.setdefault(_parameter(option), _option(option, _usual(getattr(usual, option.field), option)))
    return found


def _presets() -> dict[str, str]:
    """What each preset does, by its name; of several of one name the first serves all."""
    found: dict[str, str] = {}
    for presets in method_presets().values():
        for preset in presets:
            found.setdefault(preset.name, preset.help)
    return found


def _configuration(file: Path | None, preset: str | None, given: Mapping[str, Any], method: str | None) -> Any:
    """The configuration of the first method that has the preset, every option that is given and the file's fields.

    ``method``, which the precision stands for, comes before all others where it has the preset and an option is given,
    or nothing at all. Where none has the fields, it is the first that has the rest, which says what is wrong with the
    file.

    Raises:
        ConfigError: the file holds no configuration.
        UsageError: there is no method that has the preset and the options.
    """
    if not (file or preset or given) and method is not None:
        return config_class(method)()
    fields = {name: {_parameter(each): each.field for each in options} for name, options in method_options().items()}
    presets = {name: {each.name: each.make for each in made} for name, made in method_presets().items()}
    able = [name for name in fields if given.keys() <= fields[name].keys() and preset in (None, *presets[name])]
    able.sort(key=lambda name: name != method)
    if not able:
        flags = [*(["--preset " + preset] if preset else []), *("--" + name.replace("_", "-") for name in given)]
        raise click.UsageError(f"no one method takes all of {', '.join(flags)}", click.get_current_context())
    chosen = _of_file(file, able) if file else able[0]
    config = config_class(chosen)
    base = config.load(file) if file else presets[chosen][preset]() if preset else config()
    return base.replace(**{fields[chosen][name]: None if value is NONE else value for name, value in given.items()})


def _meant(precision: str | None, target: str | None) -> str | None:
    """The method that a precision of products stands for on a target; None: none, or the target has it of its own."""
    if precision is None or precision not in method_precisions():
        return None
    from haste_compiler.codegen.target import own_precisions

    return None if precision in own_precisions(target or "llvm") else method_precisions()[precision]


def _of_file(file: Path, methods: Sequence[str]) -> str:
    """The first of some methods whose configuration has every field that a file holds; where none has, the first."""
    stored = stored_fields(file)
    names = set(stored) if isinstance(stored, Mapping) else set()
    return next((method for method in methods if names.issubset(config_class(method).fields())), methods[0])


def config_options(command: Command, without: Collection[str] = ()) -> Command:
    """Adds --config, --preset and the options of the methods; the command gets ``config``, a method's configuration.

    Args:
        command: it is added to.
        without: parameters of the command's own, in whose place no method's option is added.
    """
    options = {name: option for name, option in _method_options().items() if name not in without}
    presets = _presets()

    @functools.wraps(command)
    def wrapped(*args: Any, config_file: Path | None, preset: str | None, **others: Any) -> Any:
        if config_file and preset:
            raise click.UsageError("--config and --preset exclude each other", click.get_current_context())
        given = {name: value for name in options if (value := others.pop(name)) is not None}
        meant = _meant(others.get("precision"), others.get("target"))
        return command(*args, config=_configuration(config_file, preset, given, meant), **others)

    made: Command = wrapped
    for add in reversed(options.values()):
        made = add(made)
    text = f"Configuration to begin with. {'; '.join(f'{name}: {meaning}' for name, meaning in presets.items())}."
    made = click.option("--preset", type=click.Choice(list(presets)), help=text)(made)
    return click.option(
        "--config",
        "config_file",
        type=EXISTING_FILE,
        help="Configuration to begin with, .json or .yaml; the options below change single fields of it.",
    )(made)


_TARGET = click.option(
    "--target",
    default="llvm",
    show_default=True,
    help="llvm: this machine; or such as 'llvm -mcpu=haswell', 'llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76'.",
)
_THREADS = click.option("--threads", type=click.IntRange(1), help="That a call uses; default: as PyTorch.")
_PRECISION = click.option(
    "--precision",
    type=click.Choice(list(dict.fromkeys(["fp32", "tf32", "bf16", *method_precisions()]))),
    help="Of products. On a CPU fp32; int8: integers of 8 bits where that is faster and changes little, without data; "
    "or bf16, on a CPU that multiplies it. On a card (--target cuda) fp32, or tf32 and bf16, which round operands for "
    "its tensor cores; default: as PyTorch, convolutions tf32 and linear layers fp32.",
)


def compile_options(precision: bool = True, without: Collection[str] = ()) -> Decorator:
    """Adds the options that say how a network is compiled; the command gets ``how``.

    These are arguments of ``haste_compiler.compile``, by name: config, target and threads.

    Args:
        precision: adds --precision too, and the argument of that name.
        without: see ``config_options``.
    """
    names = ["config", "target", "threads", *(["precision"] if precision else [])]

    def add(command: Command) -> Command:
        command = gather("how", dict, names)(command)
        if precision:
            command = _PRECISION(command)
        return config_options(_TARGET(_THREADS(command)), without)

    return add


COMPILE_OPTIONS = ("config_file", "preset", *_method_options(), "target", "threads", "precision")
"""Parameters of commands that say how a network is compiled."""

NETWORK_OPTIONS = ("weights", "inputs")
"""Parameters of commands that say more of a network than its name."""


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


def network_options(metavar: str = "MODEL") -> Decorator:
    """Adds MODEL, --weights and --input; the command gets ``network``, a ``NetworkSource``.

    Args:
        metavar: what help calls the argument.
    """

    def add(command: Command) -> Command:
        command = gather("network", NetworkSource, ("model", *NETWORK_OPTIONS))(command)
        command = click.option(
            "--input",
            "inputs",
            multiple=True,
            metavar="SIZES",
            help="What MODEL is called with, such as 1x3x224x224; commas between several arguments "
            "(1x3x32x32,1x10:int64). Again for another signature. None: what the network is known to take.",
        )(command)
        command = click.option(
            "--weights", metavar="FILE|random", help="Of MODEL: a .safetensors file; or random ones."
        )(command)
        return click.argument("model", metavar=metavar)(command)

    return add


def rounds_option(default: int) -> Decorator:
    """Adds --rounds."""
    return click.option(
        "--rounds", type=click.IntRange(1), default=default, show_default=True, help="How often each is timed."
    )


min_agreement_option = click.option(
    "--min-agreement", type=LIMIT, help="Least part of the images with the original's class, 0 to 1."
)
"""Adds --min-agreement."""


def image_options(required: bool, most: int = 256) -> Decorator:
    """Adds --images and --limit, by default ``most``; the command gets ``images``, an ``ImageSource``."""

    def add(command: Command) -> Command:
        command = gather("images", ImageSource, ("images", "limit"))(command)
        command = click.option(
            "--limit", type=click.IntRange(1), default=most, show_default=True, help="Most images that are used."
        )(command)
        return click.option(
            "--images",
            **({"required": True} if required else {"default": "random", "show_default": True}),
            metavar="FOLDER|FILE.npz|random",
            help="A folder (one folder a class gives labels); an .npz file with `images`, float32 (N, C, H, W), and "
            "maybe `labels`; or made-up images.",
        )(command)

    return add
