"""Checks the command lines that pages quote: the programs, modules, commands and options must exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from haste_compiler.cli.commands import haste

ROOT = Path(__file__).resolve().parents[2]

SYSTEM = ("cd", "git", "unzip", "xdg-open")
"""Programs that aren't ours, of which nothing is checked."""

BUILT = ("examples/cpp/haste_run",)
"""Programs that commands of the same page build."""

_ASSIGNMENT = re.compile(r"[A-Z_]+=")


class CommandError(AssertionError):
    """A page quotes a command that doesn't exist, or not so."""


def command_lines(text: str) -> Iterator[str]:
    """The commands of a block, one a line; lines that end with a backslash go on."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def typed_lines(text: str) -> Iterator[str]:
    """The commands of a transcript: what follows ``$``; the rest is output."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("$ "):
            yield line[2:]


def check(line: str) -> None:
    """Check one command line.

    Raises:
        CommandError: something in it doesn't exist; the message says what.
    """
    words = shlex.split(line, comments=True)
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    if ">" in words:
        words = words[: words.index(">")]
    if not words:
        return
    program, *arguments = words
    if program == "haste":
        _check_haste(arguments)
    elif program in ("python", "torchrun"):
        _check_python(arguments)
    elif program == "make":
        _check_make(arguments)
    elif program == "pip":
        _check_pip(arguments)
    elif not (program in SYSTEM or program in BUILT or (ROOT / program).is_file()):
        raise CommandError(f"there is no program {program!r}")


def _check_haste(arguments: Sequence[str]) -> None:
    command: click.Command = haste
    context = click.Context(haste, info_name="haste")
    given = list(arguments)
    while isinstance(command, click.Group) and given and not given[0].startswith("-"):
        name = given.pop(0)
        if name not in command.commands:
            raise CommandError(f"haste has no command {name!r}")
        command = command.commands[name]
        context = click.Context(command, info_name=name, parent=context)
    if "--help" in given:
        return
    try:
        values, left, _ = command.make_parser(context).parse_args(list(given))
        if left:
            raise CommandError(f"haste {command.name} doesn't take {left}")
        for parameter in command.params:
            value = values.get(parameter.name or "")
            if parameter.required and not (isinstance(value, str | tuple) and value):
                raise CommandError(f"haste {command.name} needs {parameter.name}")
            if isinstance(parameter.type, click.Choice | click.types.IntParamType | click.types.FloatParamType):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        raise CommandError(f"haste {command.name}: {error.format_message()}") from None


def _check_python(arguments: Sequence[str]) -> None:
    if "-m" not in arguments:
        script = next((word for word in arguments if not word.startswith("-")), None)
        if "-c" not in arguments and script is not None and not (ROOT / script).is_file():
            raise CommandError(f"there is no {script}")
        if script is not None and "-c" not in arguments:
            _check_options(arguments, [ROOT / script])
        return
    place = list(arguments).index("-m")
    module, given = arguments[place + 1], arguments[place + 2 :]
    try:
        if importlib.util.find_spec(module) is None:
            raise CommandError(f"there is no module {module}")
    except ModuleNotFoundError as error:
        raise CommandError(f"there is no module {module}: {error}") from None
    if module == "haste_compiler.cli":
        _check_haste(given)
    elif module.startswith("benchmarks."):
        _check_options(given, (ROOT / "benchmarks").glob("*.py"))


def _check_options(arguments: Sequence[str], files: Iterator[Path] | Sequence[Path]) -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    for word in arguments:
        option = word.partition("=")[0]
        if word.startswith("--") and f'"{option}"' not in code and f'"{option}/' not in code:
            raise CommandError(f"there is no option {option}")


def _check_make(arguments: Sequence[str]) -> None:
    folder = ROOT
    given = list(arguments)
    if "-C" in given:
        place = given.index("-C")
        folder = ROOT / given[place + 1]
        del given[place : place + 2]
    targets = re.findall(r"^([\w.]+):", (folder / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for word in given:
        if "=" not in word and word not in targets:
            raise CommandError(f"{folder.name}/Makefile has no target {word!r}")


def _check_pip(arguments: Sequence[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in arguments:
        found = re.match(r"haste-compiler\[(?P<extras>[\w,]+)\]", word)
        for extra in found["extras"].split(",") if found else ():
            if extra not in extras:
                raise CommandError(f"there is no extra {extra!r}")
