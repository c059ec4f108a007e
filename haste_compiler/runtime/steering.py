"""Changing tolerance, flat tolerance and hyperplanes of a compiled network between two calls."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from haste_compiler.errors import ConfigError
from haste_compiler.methods.haste.config import HasteConfig, matches_layer
from haste_compiler.methods.haste.settings import Settings

FIELDS = ("num_hyperplanes", "tolerance", "flat_tolerance")


@dataclass(frozen=True)
class Change:
    """One assignment: ``field`` of every layer that ``pattern`` matches becomes ``value``."""

    field: str
    pattern: str
    value: float

    def matches(self, layers: Iterable[str]) -> bool:
        """Whether it concerns a grouping that ``layers`` share."""
        return any(matches_layer(self.pattern, name) for name in layers)

    def apply(self, settings: Settings) -> Settings:
        """The settings after the assignment."""
        value: Any = int(self.value) if self.field == "num_hyperplanes" else self.value
        return settings._replace(**{self.field: value})


def changes(field: str, value: Any) -> list[Change]:
    """The changes that ``compiled.<field> = value`` means.

    Args:
        field: one of ``FIELDS``.
        value: one value for all layers, or a mapping from layer names or patterns to values.

    Raises:
        ConfigError: a value is out of range.
    """
    values: Mapping[str, Any] = value if isinstance(value, Mapping) else {"*": value}
    made = []
    for pattern, item in values.items():
        # HasteConfig knows every range and words the error.
        checked = getattr(HasteConfig().replace(**{field: item}), field)
        made.append(Change(field, pattern, math.inf if checked is None else checked))
    return made


def check(change: Change, layers: list[str], dense: Mapping[str, str]) -> None:
    """Check that a change concerns at least one layer.

    Args:
        change: the change.
        layers: names of the HASTE layers.
        dense: of the other convolutions, why they are dense.

    Raises:
        ConfigError: its pattern matches none of ``layers``.
    """
    if change.matches(layers):
        return
    for name, reason in dense.items():
        if change.matches([name]):
            raise ConfigError(
                f"{change.field}: {name!r} is a dense convolution, which has nothing to steer: {reason}. "
                'layers={...: {"cost_model": False}} makes an eligible one a HASTE convolution whatever is predicted'
            )
    close = difflib.get_close_matches(change.pattern, layers, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    raise ConfigError(f"{change.field}: {change.pattern!r} matches none of the {len(layers)} HASTE layers{hint}")
