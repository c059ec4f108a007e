"""What a network offers that can be steered between two calls, compiled here or loaded from a file."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tvm.target import Target

from haste_compiler.errors import ConfigError
from haste_compiler.forking import Lock
from haste_compiler.methods.config import close_to
from haste_compiler.methods.configs import Configs
from haste_compiler.runtime import steering
from haste_compiler.runtime.executable import Executable

log = logging.getLogger(__name__)


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
    all layers agree, as a dictionary by layer where not; before anything is compiled, as they were assigned. Nothing
    else can be assigned.

    Raises:
        ConfigError: an assignment is out of range, or steers nothing: there is no such parameter, or no layer of its
            method. What was assigned before anything is compiled, for all layers, is warned about instead.
    """

    def __init__(self, configs: Configs, target: Target) -> None:
        self._configs, self._target = configs, target
        self._changes: list[steering.Change] = []
        self._lock = Lock(brief=False)

    @abstractmethod
    def _parts(self) -> Sequence[Part]:
        """All that is compiled, the last one last."""

    @property
    def configs(self) -> Configs:
        """The configurations the network was compiled with."""
        return self._configs

    @property
    def target(self) -> Target:
        """The target of its code, complete with the CPU's name."""
        return self._target

    @property
    def config(self) -> Any:
        """The configuration the network was compiled with; a tuple where there are several."""
        return self.configs.given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not steering.parameters(name):
            hint = "" if name.startswith("_") else close_to(name, [*dir(type(self)), *steering.names()])
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name)
        return self._steered(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            steering.check_assigned(name, self.configs, type(self))
            self._steer(name, value)

    def _steer(self, name: str, value: Any) -> None:
        made = steering.changes(name, value)
        with self._lock.lock:
            parts = self._parts()
            self._check(made, parts)
            # Of what an assignment takes the place of, nothing is left that could fail for a shape to come.
            kept = [each for each in self._changes if not any(change.replaces(each) for change in made)]
            self._changes = kept + made
            for part in parts:
                self._apply(made, part)

    def _check(self, made: Sequence[steering.Change], parts: Sequence[Part]) -> None:
        """Changes must concern some layer for some input signature: which layers are a method's depends on it."""
        records = [record for part in parts for record in part.executable.records]
        dense = {name: reason for part in parts for name, reason in part.dense_layers.items()}
        for change in made if parts else ():
            steering.check(change, records, dense)

    def _steer_new(self, part: Part, others: Sequence[Part]) -> None:
        """Apply to a part, compiled now, what was assigned before.

        Raises:
            ConfigError: a pattern that was assigned matches no layer.
        """
        for change in self._changes:
            try:
                self._check([change], [*others, part])
            except ConfigError as error:
                if change.pattern != "*":
                    raise
                log.warning("%s was assigned before the network was compiled: %s", change.name, error)
        self._apply(self._changes, part)

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
            return self._assigned(name, written, configured)
        executable = parts[-1].executable
        values = {
            layer: written(executable.values(index)[place])
            for index, record in enumerate(executable.records)
            if (place := steering.position(record, name)) is not None
            for layer in record.layers
        }
        if not values:
            return self._assigned(name, written, configured)
        return next(iter(values.values())) if len(set(values.values())) == 1 else values

    def _assigned(self, name: str, written: Callable[[float], Any], configured: Any) -> Any:
        """A parameter as it was assigned, where no layer has it."""
        values: dict[str, Any] = {"*": configured}
        for change in self._changes:
            if change.name == name:
                values = {} if change.pattern == "*" else values
                values[change.pattern] = written(change.value)
        return values["*"] if len(values) == 1 else values
