"""The methods there are, by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from haste_compiler.codegen.rules import Joined, join

if TYPE_CHECKING:
    from haste_compiler.codegen.machine import Machine
    from haste_compiler.methods.method import Method

NAMES: tuple[str, ...] = ("haste",)
"""Folders of ``methods``, or of any other package by its dotted path, in the order in which they choose layers."""


def method(name: str) -> Method:
    """A method by its name.

    Raises:
        KeyError: there is none.
    """
    for entry in NAMES:
        if entry.rpartition(".")[2] == name:
            found: Method = importlib.import_module(f"{folder(entry)}.method").METHOD
            return found
    raise KeyError(f"there is no method {name!r}: there are {', '.join(names())}")


def names() -> Sequence[str]:
    """The names of all methods, in order."""
    return [entry.rpartition(".")[2] for entry in NAMES]


def methods() -> list[Method]:
    """All methods, in order."""
    return [method(name) for name in names()]


def folder(entry: str) -> str:
    """The package that an entry of ``NAMES`` means."""
    return entry if "." in entry else f"haste_compiler.methods.{entry}"


def rules_for(machine: Machine) -> Joined:
    """All rules for a machine: the methods' are asked first, then its own."""
    return join(*(each.rules(machine) for each in methods()), machine.rules())
