"""What a network offers that can be steered between two calls, compiled here or loaded from a file."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.runtime import steering
from haste_compiler.runtime.executable import Executable


class Part(Protocol):
    """The network for one input signature."""

    @property
    def executable(self) -> Executable:
        """Its code."""

    @property
    def dense_layers(self) -> Mapping[str, str]:
        """Of the convolutions that are dense, why."""


class Steerable(ABC):
    """Has ``num_hyperplanes``, ``tolerance`` (None: off) and ``flat_tolerance``, to be assigned between two calls.

    Give one value for all layers, or a mapping from layer names or patterns to values; nothing is compiled again. They
    read as one value where all layers agree, as a dictionary by layer where not.

    Attributes:
        config: the configuration the network was compiled with.
    """

    def __init__(self, config: HasteConfig) -> None:
        self.config = config
        self._changes: list[steering.Change] = []
        self._lock = threading.Lock()

    @abstractmethod
    def _parts(self) -> Sequence[Part]:
        """All that is compiled, the last one last."""

    @property
    def tolerance(self) -> Any:
        """See the class; None where the check is off."""
        return self._steered("tolerance")

    @tolerance.setter
    def tolerance(self, value: Any) -> None:
        self._steer("tolerance", value)

    @property
    def flat_tolerance(self) -> Any:
        """See the class."""
        return self._steered("flat_tolerance")

    @flat_tolerance.setter
    def flat_tolerance(self, value: Any) -> None:
        self._steer("flat_tolerance", value)

    @property
    def num_hyperplanes(self) -> Any:
        """See the class."""
        return self._steered("num_hyperplanes")

    @num_hyperplanes.setter
    def num_hyperplanes(self, value: Any) -> None:
        self._steer("num_hyperplanes", value)

    def _steer(self, field: str, value: Any) -> None:
        made = steering.changes(field, value)
        with self._lock:
            parts = self._parts()
            self._check(made, parts)
            self._changes += made
            for part in parts:
                self._apply(made, part)

    def _check(self, made: Sequence[steering.Change], parts: Sequence[Part]) -> None:
        """Changes must concern some layer for some input signature: which layers are HASTE depends on it."""
        names = (name for part in parts for group in part.executable.groups for name in group.layers)
        layers = list(dict.fromkeys(names))
        dense = {name: reason for part in parts for name, reason in part.dense_layers.items()}
        for change in made if parts else ():
            if change.pattern != "*":
                steering.check(change, layers, dense)

    def _apply(self, made: Sequence[steering.Change], part: Part) -> None:
        executable = part.executable
        for change in made:
            for index, group in enumerate(executable.groups):
                if change.matches(group.layers):
                    executable.steer(index, change.apply(executable.settings(index)))

    def _steered(self, field: str) -> Any:
        parts = self._parts()
        if not parts:
            last = [change.value for change in self._changes if change.field == field and change.pattern == "*"]
            return _plain(last[-1]) if last else getattr(self.config, field)
        executable = parts[-1].executable
        values = {
            name: _plain(getattr(executable.settings(index), field))
            for index, group in enumerate(executable.groups)
            for name in group.layers
        }
        if not values:
            return getattr(self.config, field)
        return next(iter(values.values())) if len(set(values.values())) == 1 else values


def _plain(value: float) -> float | None:
    """A setting as the user writes it: None for no tolerance, and 0.2 instead of its float32 neighbour."""
    if math.isinf(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.7g}")
