"""What a method says to the command line: the options that set its configuration's fields, and its presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option, which sets one field of the method's configuration.

    Attributes:
        name: on the command line, without its dashes, such as "patch-size".
        field: of the configuration.
        type: int or float; bool, which makes --NAME and --no-NAME; a tuple of what may be chosen; or a function that
            reads the text, and whose ValueError says what is wrong with it.
        help: what the option means, in one sentence.
        none: whether "none" stands for None; for int and float.
        metavar: what help shows for the value; "": as the type says.
        unset: what help calls a default that is None.
    """

    name: str
    field: str
    type: type[int | float | bool] | tuple[Any, ...] | Callable[[str], Any]
    help: str
    none: bool = False
    metavar: str = ""
    unset: str = "none"


@dataclass(frozen=True)
class Preset:
    """A configuration that has a name.

    Attributes:
        name: on the command line.
        help: what it does, in a few words.
        make: returns the configuration.
    """

    name: str
    help: str
    make: Callable[[], Any]
