"""The configurations that a network is compiled with: at most one a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.machine import Machine
from haste_compiler.errors import ConfigError
from haste_compiler.methods.config import WINOGRAD_SIZES, MethodConfig
from haste_compiler.methods.method import Method
from haste_compiler.methods.registry import method, methods, names

ConfigLike = MethodConfig | Sequence[MethodConfig] | None
"""What users give: a method's configuration, or several; None: the methods' defaults."""


@dataclass(frozen=True)
class Configs:
    """Configurations in the methods' order.

    Attributes:
        all: one for each method that takes part.
    """

    all: tuple[MethodConfig, ...]

    @classmethod
    def of(cls, given: ConfigLike | Configs) -> Configs:
        """The configurations that a user gave.

        Raises:
            ConfigError: something else was given, or two of one method.
        """
        if isinstance(given, Configs):
            return given
        if given is None:
            return cls(tuple(config for each in methods() if (config := each.default()) is not None))
        several = given if isinstance(given, (list, tuple)) else (given,)
        known = tuple(each.CONFIG for each in methods())
        wrong = [each for each in several if not isinstance(each, known)]
        if wrong:
            classes = " or ".join(f"a {each.__name__}" for each in known)
            raise ConfigError(f"config is {type(wrong[0]).__name__}: allowed is {classes}, or a list of such")
        twice = [name for name in names() if sum(name == each.METHOD for each in several) > 1]
        if twice:
            raise ConfigError(f"config has two configurations of {twice[0]!r}: allowed is one a method")
        return cls(tuple(sorted(several, key=lambda each: names().index(each.METHOD))))

    @classmethod
    def with_precision(cls, given: ConfigLike, precision: str | None, machine: Machine) -> tuple[Configs, str | None]:
        """The configurations that a user gave, and the precision of products that is left for the machine.

        A precision that a method stands for means its default configuration, if none of it was given; alone, if nothing
        was given. What the machine has of its own is left to it.

        Raises:
            ConfigError: see ``of``.
        """
        meant = next((each for each in methods() if precision and precision == each.PRECISION), None)
        if meant is None or precision in machine.PRECISIONS:
            return cls.of(given), precision
        several = [] if given is None else list(cls.of(given).all)
        if all(config.METHOD != meant.NAME for config in several):
            several.append(meant.CONFIG())
        return cls.of(several), None

    @classmethod
    def dense(cls) -> Configs:
        """The defaults, disabled: no method takes a layer."""
        return cls(tuple(config.replace(enabled=False) for config in cls.of(None).all))

    @property
    def is_dense(self) -> bool:
        """Whether no method takes part."""
        return not any(config.enabled for config in self.all)

    @property
    def given(self) -> Any:
        """The configuration itself where there is one; otherwise all of them."""
        return self.all[0] if len(self.all) == 1 else self.all

    def __iter__(self) -> Iterator[tuple[Method, MethodConfig]]:
        """The methods that take part, each with its configuration."""
        return ((method(config.METHOD), config) for config in self.all)

    def of_method(self, name: str) -> MethodConfig | None:
        """A method's configuration; None where it takes no part."""
        return next((config for config in self.all if name == config.METHOD), None)

    def split(self, wanted: Callable[[Method], bool]) -> tuple[Configs, Configs]:
        """Those of some methods, and the others."""
        chosen = tuple(config for each, config in self if wanted(each))
        return Configs(chosen), Configs(tuple(config for config in self.all if config not in chosen))

    def check(self, machine: Machine) -> None:
        """Check that every method that takes part has kernels for a machine.

        Raises:
            ConfigError: one has none.
        """
        for each, config in self:
            if config.enabled and not each.rules(machine):
                required = each.requirement(machine)
                reason = f"; {required}" if required else ""
                raise ConfigError(f"config is {type(config).__name__}: {machine.name} has no kernels for it{reason}")

    def replaced(self, config: MethodConfig) -> Configs:
        """With another configuration of one method."""
        return Configs(tuple(config if each.METHOD == config.METHOD else each for each in self.all))

    def in_float32(self) -> Configs:
        """With those methods disabled that stand for a precision of products."""
        return Configs(tuple(config.replace(enabled=False) if each.PRECISION else config for each, config in self))

    def configured(self, machine: Machine) -> Configs:
        """With a machine's values for what they leave open."""
        return Configs(tuple(each.configured(config, machine) for each, config in self))

    def only_for(self, layers: Iterable[str]) -> Configs:
        """With those overrides only that match one of some layers."""
        known = list(layers)
        return Configs(tuple(config.only_for(known) for config in self.all))

    def winograd(self, layer: str) -> int:
        """Largest side of Winograd's tiles that may compute a layer that stays plain: the least that any asks for."""
        limits = [getattr(config.for_layer(layer), "winograd", max(WINOGRAD_SIZES)) for config in self.all]
        return min(limits, default=max(WINOGRAD_SIZES))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """By method's name, as JSON can hold it."""
        return {config.METHOD: config.to_dict() for config in self.all}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Configs:
        """Read what ``to_dict`` wrote.

        Raises:
            KeyError: there is no such method.
            ConfigError: a configuration is none.
        """
        return cls(tuple(method(name).CONFIG.from_dict(fields) for name, fields in stored.items()))
