"""Changing the methods' parameters of a compiled network between two calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.program import Record
from haste_compiler.errors import ConfigError
from haste_compiler.methods.config import close_to, matches_layer
from haste_compiler.methods.method import Parameter
from haste_compiler.methods.registry import method, methods


def parameters(name: str) -> dict[str, Parameter]:
    """The parameters of one name, by the methods that have it; empty where none does."""
    return {each.NAME: found for each in methods() for found in each.PARAMETERS if found.name == name}


def position(record: Record, name: str) -> int | None:
    """Where a record holds the value of a parameter; None: its method has no such parameter."""
    known = [parameter.name for parameter in method(record.method).PARAMETERS]
    return known.index(name) if name in known else None


@dataclass(frozen=True)
class Change:
    """One assignment: the parameter ``name`` of every layer that ``pattern`` matches becomes ``value``."""

    name: str
    pattern: str
    value: float

    def matches(self, record: Record) -> bool:
        """Whether it concerns a record: its method has the parameter, and one of its layers is meant."""
        return position(record, self.name) is not None and self.matches_any(record.layers)

    def matches_any(self, layers: Iterable[str]) -> bool:
        """Whether it means one of some layers."""
        return any(matches_layer(self.pattern, layer) for layer in layers)

    def apply(self, record: Record, values: tuple[float, ...]) -> tuple[float, ...]:
        """A record's values after the assignment."""
        place = position(record, self.name)
        assert place is not None
        return (*values[:place], self.value, *values[place + 1 :])


def changes(name: str, value: Any) -> list[Change]:
    """The changes that ``compiled.<name> = value`` means.

    Args:
        name: of a parameter.
        value: one value for all layers, or a mapping from layer names or patterns to values.

    Raises:
        ConfigError: a value is out of range.
    """
    values: Mapping[str, Any] = value if isinstance(value, Mapping) else {"*": value}
    parameter = next(iter(parameters(name).values()))
    return [Change(name, pattern, parameter.read(item)) for pattern, item in values.items()]


def check(change: Change, records: Iterable[Record], dense: Mapping[str, str]) -> None:
    """Check that a change concerns at least one layer.

    Args:
        change: the change.
        records: of the network.
        dense: of the convolutions that no method takes, why.

    Raises:
        ConfigError: its pattern matches no layer of a method that has the parameter.
    """
    steered = [record for record in records if position(record, change.name) is not None]
    if any(change.matches(record) for record in steered):
        return
    for name, reason in dense.items():
        if change.matches_any([name]):
            raise ConfigError(
                f"{change.name}: {name!r} is a dense convolution, which has nothing to steer: {reason}. "
                'layers={...: {"cost_model": False}} makes a method take an eligible one whatever is predicted'
            )
    layers = list(dict.fromkeys(name for record in steered for name in record.layers))
    titles = " and ".join(method(name).TITLE for name in parameters(change.name))
    raise ConfigError(
        f"{change.name}: {change.pattern!r} matches none of the {len(layers)} {titles} layers"
        f"{close_to(change.pattern, layers)}"
    )
