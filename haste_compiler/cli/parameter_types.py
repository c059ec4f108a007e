"""What options read: existing files, limits, and the types that methods ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from haste_compiler.methods.option import Option

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
"""A file that is there."""

NONE = object()
"""What "none" on the command line becomes: click takes None for an option that isn't given."""


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


def _size(text: str) -> tuple[int, int]:
    """Reads a height and a width."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no height and width, such as 224x288")
    return int(found[1]), int(found[2])


_size.__name__ = "HxW"
SIZE = click.types.FuncParamType(_size)
"""Height and width of images."""


def click_type(option: Option) -> Any:
    """What reads a method's option; a flag has no text to read."""
    if isinstance(option.type, tuple):
        return click.Choice(option.type)
    if option.none:
        return _or_none(option.type)
    return option.type if option.type in (int, float) else _explained(option.type)


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads a number, or "none" as ``NONE``."""

    def read(text: str) -> Any:
        try:
            return NONE if text == "none" else kind(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no number, nor none") from None

    return read


def _explained(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads as ``kind`` does, and refuses what it can't read in the words of its ValueError."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return read
