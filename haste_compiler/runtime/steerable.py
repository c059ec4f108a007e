"""What a network offers that can be steered between two calls, compiled here or loaded from a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from haste_compiler.forking import Lock
from haste_compiler.methods.configs import Configs
from haste_compiler.runtime import steering
from haste_compiler.runtime.executable import Executable


class Part(Protocol):
    """The network for one input signature."""

    @property
    def executable(self) -> Executable:
        """Its code."""

    @property
    def dense_layers(self) -> Mapping[str, str]:
        """Of the convolutions that no method takes, why."""


class Steerable(ABC):
    """Has the parameters of its methods as attributes, to be assigned between two calls.

    Those of HASTE are ``num_hyperplanes``, ``tolerance`` (None: off) and ``flat_tolerance``. Give one value for all
    layers, or a mapping from layer names or patterns to values; nothing is compiled again. They read as one value where
    all layers agree, as a dictionary by layer where not.

    Attributes:
        configs: the configurations the network was compiled with.
    """

    def __init__(self, configs: Configs) -> None:
        self.configs = configs
        self._changes: list[steering.Change] = []
        self._lock = Lock(brief=False)

    @abstractmethod
    def _parts(self) -> Sequence[Part]:
        """All that is compiled, the last one last."""

    @property
    def config(self) -> Any:
        """The configuration the network was compiled with; a tuple where there are several."""
        return self.configs.given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not steering.parameters(name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._steered(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or hasattr(type(self), name) or not steering.parameters(name):
            super().__setattr__(name, value)
        else:
            self._steer(name, value)

    def _steer(self, name: str, value: Any) -> None:
        made = steering.changes(name, value)
        with self._lock.lock:
            parts = self._parts()
            self._check(made, parts)
            self._changes += made
            for part in parts:
                self._apply(made, part)

    def _check(self, made: Sequence[steering.Change], parts: Sequence[Part]) -> None:
        """Changes must concern some layer for some input signature: which layers are a method's depends on it."""
        records = [record for part in parts for record in part.executable.records]
        dense = {name: reason for part in parts for name, reason in part.dense_layers.items()}
        for change in made if parts else ():
            if change.pattern != "*":
                steering.check(change, records, dense)

    def _apply(self, made: Sequence[steering.Change], part: Part) -> None:
        executable = part.executable
        for change in made:
            for index, record in enumerate(executable.records):
                if change.matches(record):
                    executable.steer(index, change.apply(record, executable.values(index)))

    def _steered(self, name: str) -> Any:
        parts, known = self._parts(), steering.parameters(name)
        written = next(iter(known.values())).written
        configured = next((getattr(c, name) for c in self.configs.all if c.METHOD in known), None)
        if not parts:
            last = [change.value for change in self._changes if change.name == name and change.pattern == "*"]
            return written(last[-1]) if last else configured
        executable = parts[-1].executable
        values = {
            layer: written(executable.values(index)[place])
            for index, record in enumerate(executable.records)
            if (place := steering.position(record, name)) is not None
            for layer in record.layers
        }
        if not values:
            return configured
        return next(iter(values.values())) if len(set(values.values())) == 1 else values
