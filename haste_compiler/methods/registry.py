"""The methods there are, by name. What one says is imported when it is asked for: options and configurations need
neither PyTorch nor TVM."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from haste_compiler.codegen.tables import Joined, join
from haste_compiler.errors import ConfigError
from haste_compiler.methods.option import Option, Preset

if TYPE_CHECKING:
    from haste_compiler.codegen.machine import Machine
    from haste_compiler.methods.method import Method

NAMES: tuple[str, ...] = ("haste", "quantized", "bfloat16", "flat", "tokens")
"""Folders of ``methods``, or of any other package by its dotted path, in the order in which they choose layers.

The first is meant where nothing says which."""


def names() -> Sequence[str]:
    """The names of all methods, in order."""
    return [entry.rpartition(".")[2] for entry in NAMES]


def method(name: str) -> Method:
    """A method by its name.

    Raises:
        KeyError: there is none.
    """
    found: Method = _part(name, "method").METHOD
    return found


def methods() -> list[Method]:
    """All methods, in order."""
    return [method(name) for name in names()]


def rules_for(machine: Machine) -> Joined:
    """All rules for a machine: the methods' are asked first, then its own."""
    return join(*(each.rules(machine) for each in methods()), machine.rules())


def product_operators() -> dict[Any, int]:
    """All methods' operators that stand for a plain layer, and where among their arguments the filters are."""
    return {operator: place for each in methods() for operator, place in each.convolutions().items()}


def counted_operators() -> dict[Any, Callable[..., int]]:
    """All methods' operators that multiply and stand for no plain layer, and how to count their multiply-adds."""
    return {operator: count for each in methods() for operator, count in each.counted().items()}


def differentiable_operators() -> dict[Any, Callable[..., Any]]:
    """All methods' operators that other methods' layers may come after, as functions that autograd goes through."""
    return {operator: function for each in methods() for operator, function in each.differentiable().items()}


def precisions_for(machine: Machine) -> tuple[str, ...]:
    """The precisions of products there are on a machine: its own, and those that methods with kernels for it mean."""
    return (*machine.PRECISIONS, *(each.PRECISION for each in methods() if each.PRECISION and each.rules(machine)))


def check_precision(machine: Machine, precision: str | None) -> None:
    """Check a precision of products that somebody asked for.

    Raises:
        ConfigError: neither the machine nor a method has it there.
    """
    if precision is not None and precision not in precisions_for(machine):
        allowed = ", ".join(map(repr, precisions_for(machine)))
        required = next((f"; {each.requirement(machine)}" for each in methods() if precision == each.PRECISION), "")
        raise ConfigError(f"precision is {precision!r}: allowed are {allowed} and None for {machine.name}{required}")


def config_class(name: str) -> type[Any]:
    """The class of a method's configuration."""
    found: type[Any] = _part(name, "config").CONFIG
    return found


def method_options() -> dict[str, tuple[Option, ...]]:
    """The command line's options of each method."""
    return {name: _part(name, "options").OPTIONS for name in names()}


def method_presets() -> dict[str, tuple[Preset, ...]]:
    """The named configurations of each method."""
    return {name: _part(name, "options").PRESETS for name in names()}


def method_precisions() -> dict[str, str]:
    """The method that each precision of products stands for, of those that stand for one."""
    return {_part(name, "options").PRECISION: name for name in names() if hasattr(_part(name, "options"), "PRECISION")}


def method_summaries() -> dict[str, str]:
    """What each method does, in one line."""
    return {name: _part(name, "options").SUMMARY for name in names()}


def _part(name: str, part: str) -> ModuleType:
    for entry in NAMES:
        if entry.rpartition(".")[2] == name:
            folder = entry if "." in entry else f"haste_compiler.methods.{entry}"
            return importlib.import_module(f"{folder}.{part}")
    raise KeyError(f"there is no method {name!r}: there are {', '.join(names())}")
