"""What a JSON value must be, said by functions: each checks a value, and names the place of what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]
"""Takes a value and its place, such as "threads"; raises ``SchemaError`` where it is something else."""


class SchemaError(ValueError):
    """A value isn't what it must be; the message says where, what it is, and what is allowed."""

    def __init__(self, place: str, value: Any, allowed: str) -> None:
        given = repr(value)
        super().__init__(f"{place} is {given if len(given) <= 60 else given[:57] + '...'}: allowed is {allowed}")


def text(value: Any, place: str) -> None:
    """Any text."""
    if not isinstance(value, str):
        raise SchemaError(place, value, "text")


def flag(value: Any, place: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise SchemaError(place, value, "true or false")


def anything(value: Any, place: str) -> None:
    """Any value: whoever reads it checks it."""


def integer(least: int, most: int) -> Check:
    """A whole number within a range."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise SchemaError(place, value, f"a whole number from {least} to {most}")

    return check


def number(value: Any, place: str) -> None:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise SchemaError(place, value, "a finite number")


def one_of(*allowed: Any) -> Check:
    """One of some texts."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise SchemaError(place, value, ", ".join(map(repr, allowed)))

    return check


def optional(check: Check) -> Check:
    """Null, or what another check takes."""

    def check_or_null(value: Any, place: str) -> None:
        if value is not None:
            check(value, place)

    return check_or_null


def sequence(check: Check, least: int = 0) -> Check:
    """A list of at least so many values, all of one kind."""

    def check_all(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise SchemaError(place, value, f"a list of at least {least} values" if least else "a list")
        for index, each in enumerate(value):
            check(each, f"{place}[{index}]")

    return check_all


def entries(*checks: Check) -> Check:
    """A list with one value for each check, in order."""

    def check_each(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) != len(checks):
            raise SchemaError(place, value, f"a list of {len(checks)} values")
        for index, (check, each) in enumerate(zip(checks, value, strict=True)):
            check(each, f"{place}[{index}]")

    return check_each


def mapping(check: Check) -> Check:
    """Any names, with values of one kind."""

    def check_all(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise SchemaError(place, value, "a mapping")
        for name, each in value.items():
            check(each, f"{place}[{name!r}]")

    return check_all


def fields(required: Mapping[str, Check], more: Mapping[str, Check] | None = None) -> Check:
    """These names and no others; those of ``more`` may be missing."""
    known = {**required, **(more or {})}

    def check_fields(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise SchemaError(place, value, f"a mapping of {', '.join(known)}")
        for name in required:
            if name not in value:
                raise ValueError(f"{place} has no {name!r}")
        for name, each in value.items():
            if name not in known:
                raise ValueError(f"{place} has a field {name!r}: known are {', '.join(known)}")
            known[name](each, f"{place}.{name}")

    return check_fields
