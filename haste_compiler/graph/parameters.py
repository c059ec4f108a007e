"""The names of a network's inputs: what is given by name goes to its place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haste_compiler.errors import InputError

if TYPE_CHECKING:
    from torch import nn

CONSTANT = (type(None), bool, int, float, str)
"""What an input may be beside a tensor: the network is compiled for its value."""


@dataclass(frozen=True)
class Parameters:
    """The inputs that a network takes by position, in order.

    Attributes:
        names: of all.
        defaults: of those that may be left out and whose default is a constant.
        optional: those that may be left out.
        more: whether it takes any number after these.
    """

    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    optional: frozenset[str] = frozenset()
    more: bool = True

    @classmethod
    def of(cls, model: nn.Module) -> Parameters:
        """The inputs of a model's ``forward``."""
        try:
            found = inspect.signature(model.forward).parameters.values()
        except (TypeError, ValueError):
            # A scripted model's are none that Python knows.
            return cls((), {})
        placed = [each for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        defaults = {each.name: each.default for each in placed if isinstance(each.default, CONSTANT)}
        more = any(each.kind is each.VAR_POSITIONAL for each in found)
        optional = frozenset(each.name for each in placed if each.default is not each.empty)
        return cls(tuple(each.name for each in placed), defaults, optional, more)

    def positional(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """All inputs by position, defaults in between.

        Raises:
            InputError: there are too many, or one is missing; a name is unknown, or given twice.
        """
        takes = f"the network takes {', '.join(self.names)}" if self.names else "the network takes inputs by position"
        if len(inputs) > len(self.names) and not self.more:
            raise InputError(f"{len(inputs)} inputs are given: {takes}")
        given = dict(zip(self.names, inputs, strict=False))
        for name in named:
            if name not in self.names:
                raise InputError(f"there is no input {name!r}: {takes}")
            if name in given:
                raise InputError(f"input {name!r} is given by position and by name")
        given |= named
        last = max(map(self.names.index, given), default=-1)
        values = {**self.defaults, **given}
        for place, name in enumerate(self.names):
            if name not in values and (place < last or name not in self.optional):
                raise InputError(f"input {name!r} is missing: {takes}")
        return (*(values[name] for name in self.names[: last + 1]), *inputs[len(self.names) :])
