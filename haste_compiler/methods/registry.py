"""The methods that there are; what a method says is imported when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from haste_compiler.methods.option import Option, Preset

NAMES: tuple[str, ...] = ("haste",)
"""A folder of ``methods`` each; the first is meant where nothing says which."""


def method_options() -> dict[str, tuple[Option, ...]]:
    """The command line's options of each method."""
    return {name: _part(name, "options").OPTIONS for name in NAMES}


def method_presets() -> dict[str, tuple[Preset, ...]]:
    """The named configurations of each method."""
    return {name: _part(name, "options").PRESETS for name in NAMES}


def method_summaries() -> dict[str, str]:
    """What each method does, in one line."""
    return {name: _part(name, "options").SUMMARY for name in NAMES}


def config_class(name: str) -> type[Any]:
    """The class of a method's configuration."""
    found: type[Any] = _part(name, "config").CONFIG
    return found


def _part(name: str, part: str) -> ModuleType:
    return importlib.import_module(f"haste_compiler.methods.{name}.{part}")
