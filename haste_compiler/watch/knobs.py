"""What of a compiled network can be turned: asked of the network itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.program import Record
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.registry import method
from haste_compiler.runtime.compiled import CompiledModule

AS_GIVEN = "as given"
"""Layers that don't agree in a value have those that they were compiled with."""


@dataclass(frozen=True)
class Knob:
    """A thing that can be turned.

    Attributes:
        name: of the parameter, of a field of a configuration, or "precision".
        values: by what they are called, in order.
        start: what it is called that it begins with.
    """

    name: str
    values: Mapping[str, Any]
    start: str

    @property
    def title(self) -> str:
        """The name as a person writes it."""
        return self.name.replace("_", " ")

    @classmethod
    def of(cls, name: str, offered: Sequence[Any], value: Any) -> Knob:
        """A knob of some values, which is at one of them or at another, put among them."""
        values = list(offered)
        if isinstance(value, Mapping):
            return cls(name, {AS_GIVEN: value, **{called(each): each for each in values}}, AS_GIVEN)
        if value not in values:
            values.append(value)
            values.sort(key=lambda each: math.inf if each is None else each)
        return cls(name, {called(each): each for each in values}, called(value))


def called(value: Any) -> str:
    """What a value is called; None is "off"."""
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def knobs(compiled: CompiledModule, records: Sequence[Record]) -> list[Knob]:
    """Of each parameter that some layer's code reads, and of which there are values to offer, a knob.

    Args:
        compiled: for some inputs already.
        records: of its code for these.
    """
    found: dict[str, Knob] = {}
    for record in records:
        owner = method(record.method)
        unread = owner.unread(record)
        for parameter in owner.PARAMETERS:
            if parameter.offered and parameter.name not in unread and parameter.name not in found:
                value = getattr(compiled, parameter.name)
                found[parameter.name] = Knob.of(parameter.name, parameter.offered, value)
    return list(found.values())


def compiled_in(configs: Configs, precisions: Sequence[str], precision: str) -> list[Knob]:
    """What takes a compilation to change: the precision of products, and fields that methods name.

    Args:
        configs: that the network is compiled with at first.
        precisions: that the machine has.
        precision: of them, at first.
    """
    found = [Knob.of("precision", precisions, precision)] if len(precisions) > 1 else []
    for owner, config in configs:
        found += [Knob.of(field, values, value) for field, (value, values) in owner.varied(config).items()]
    return found
