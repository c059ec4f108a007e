"""Changing the methods' parameters of a compiled network between two calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.program import Record
from haste_compiler.errors import ConfigError
from haste_compiler.methods.config import close_to, matches_layer
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.method import Parameter
from haste_compiler.methods.registry import method, methods


def parameters(name: str) -> dict[str, Parameter]:
    """The parameters of one name, by the methods that have it; empty where none does."""
    return {each.NAME: found for each in methods() for found in each.PARAMETERS if found.name == name}


def names() -> list[str]:
    """Of the parameters of all methods."""
    return list(dict.fromkeys(parameter.name for each in methods() for parameter in each.PARAMETERS))


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

    def replaces(self, earlier: Change) -> bool:
        """Whether nothing is left of an earlier change."""
        return self.name == earlier.name and self.pattern in ("*", earlier.pattern)

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


def check_assigned(name: str, configs: Configs, kind: type) -> None:
    """Check that assigning an attribute of a compiled network steers something.

    Args:
        name: the attribute's.
        configs: that the network was compiled with.
        kind: of the network.

    Raises:
        ConfigError: it isn't a parameter of the network's methods; the message says which there are.
    """
    known = list(dict.fromkeys(parameter.name for each, _ in configs for parameter in each.PARAMETERS))
    if name in known:
        return
    steered = f"what can be steered is {', '.join(known)}" if known else "none of its methods can be steered"
    fields = [type(config).__name__ for _, config in configs if name in config.fields()]
    if fields:
        raise ConfigError(f"{name} is compiled in: {steered}; compile again with {fields[0]}({name}=...) to change it")
    if parameters(name):
        titles = " and ".join(method(each).TITLE for each in parameters(name))
        raise ConfigError(f"{name} steers {titles}, which this network wasn't compiled with: {steered}")
    if hasattr(kind, name):
        raise ConfigError(f"{name} can't be assigned: {steered}")
    raise ConfigError(f"{kind.__name__} has no {name!r}{close_to(name, known)}: {steered}")


def check(change: Change, records: Iterable[Record], dense: Mapping[str, str]) -> None:
    """Check that a change concerns at least one layer, whose code reads the parameter.

    Args:
        change: the change.
        records: of the network.
        dense: of the convolutions that no method takes, why.

    Raises:
        ConfigError: its pattern matches no such layer; the message says why.
    """
    steered = [record for record in records if position(record, change.name) is not None]
    matching = [record for record in steered if change.matches(record)]
    unread = [reason for record in matching if (reason := method(record.method).unread(record).get(change.name))]
    if matching and len(unread) < len(matching):
        return
    if unread:
        raise ConfigError(f"{change.name} changes nothing in {matching[0].layers[0]!r}: {unread[0]}")
    titles = " and ".join(method(name).TITLE for name in parameters(change.name))
    if change.pattern == "*" and not steered:
        reasons = "".join(f"; {name!r}: {reason}" for name, reason in list(dense.items())[:1])
        raise ConfigError(
            f"{change.name}: none of the {len(dense)} convolutions is a {titles} layer, so there is nothing to "
            f"steer{reasons}. explain() has all reasons; cost_model=False makes a method take every eligible one"
        )
    for name, reason in dense.items():
        if change.matches_any([name]):
            raise ConfigError(
                f"{change.name}: {name!r} is a dense convolution, which has nothing to steer: {reason}. "
                'layers={...: {"cost_model": False}} makes a method take an eligible one whatever is predicted'
            )
    layers = list(dict.fromkeys(name for record in steered for name in record.layers))
    raise ConfigError(
        f"{change.name}: {change.pattern!r} matches none of the {len(layers)} {titles} layers"
        f"{close_to(change.pattern, layers)}"
    )
