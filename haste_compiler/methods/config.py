"""What the configurations of all methods have in common: overrides by layer, files, checks of fields."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Self

from haste_compiler.errors import ConfigError, first_line
from haste_compiler.files import write_text

WINOGRAD_SIZES = (0, 2, 4)
"""Sides of Winograd's tiles of outputs; 0: the algorithm isn't used."""


class MethodConfig:
    """Base of the methods' configurations: frozen dataclasses of plain values, hashable and JSON-able.

    A subclass is declared with ``@dataclass(frozen=True, eq=False)`` and checks its own fields in ``check``. It has
    ``enabled`` and ``cost_model`` (bool) and, as its last field, ``layers``: overrides, from a layer's qualified name
    or an ``fnmatch`` pattern of it to the fields that differ there; later entries win.

    Attributes:
        METHOD: the method's name.
        enabled: False leaves every layer as it is.
        cost_model: True: a layer is taken only where it is predicted to be faster for it on this machine.
        layers: see above.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    METHOD: ClassVar[str]

    enabled: bool
    cost_model: bool
    layers: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        """Check every field and bring numbers and overrides into their plain form."""
        for name in ("enabled", "cost_model"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        self.check()
        self.set("layers", self._checked_layers())

    def check(self) -> None:
        """Check the subclass's own fields, and ``set`` them to their plain form.

        Raises:
            ConfigError: a value is out of range or of the wrong type.
        """

    def set(self, name: str, value: object) -> None:
        """Set a field while the configuration is being made."""
        object.__setattr__(self, name, value)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The fields' names, in order."""
        return tuple(item.name for item in dataclasses.fields(cls))  # type: ignore[arg-type]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            ConfigError: an unknown field or a value out of range.
        """
        check_field_names(changes, self.fields())
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def for_layer(self, name: str) -> Self:
        """Return one layer's configuration: the overrides that match ``name`` applied in order, ``layers`` empty."""
        changes: dict[str, Any] = {"layers": {}}
        for pattern, override in self.layers.items():
            if matches_layer(pattern, name):
                changes.update(override)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def only_for(self, names: Iterable[str]) -> Self:
        """Return a copy with those overrides only that match one of some layers."""
        known = list(names)
        matching = {
            pattern: override
            for pattern, override in self.layers.items()
            if any(matches_layer(pattern, name) for name in known)
        }
        return self.replace(layers=matching)

    def overridden(self, overrides: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return a copy with more overrides behind those that are there, so that they win."""
        before = {pattern: override for pattern, override in self.layers.items() if pattern not in overrides}
        both = {name: {**self.layers.get(name, {}), **override} for name, override in overrides.items()}
        return self.replace(layers={**before, **both})

    def check_layers(self, names: Iterable[str]) -> None:
        """Check that every key of ``layers`` matches one of the layers called ``names``.

        Raises:
            ConfigError: a key matches nothing; the message names it and the closest layers.
        """
        known = list(names)
        for pattern in self.layers:
            if any(matches_layer(pattern, name) for name in known):
                continue
            raise ConfigError(
                f"layers: {pattern!r} matches none of the {len(known)} eligible layers{close_to(pattern, known)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold; ``from_dict`` reads it back."""
        fields = {name: getattr(self, name) for name in self.fields()}
        fields["layers"] = {pattern: dict(override) for pattern, override in self.layers.items()}
        plain = _lists(fields)
        assert isinstance(plain, dict)
        return plain

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a configuration from a dictionary as ``to_dict`` returns it; missing fields take their defaults.

        Raises:
            ConfigError: ``fields`` is no mapping, names an unknown field or holds a value out of range.
        """
        if not isinstance(fields, Mapping):
            raise ConfigError(f"a configuration is a mapping of fields, not {type(fields).__name__}")
        check_field_names(fields, cls.fields())
        return cls(**fields)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the configuration to a file that ``load`` reads: JSON, or YAML (the ``yaml`` extra) by its suffix.

        Args:
            path: ends in ``.json``, ``.yaml`` or ``.yml``.

        Raises:
            ConfigError: another suffix, or PyYAML is not installed.
        """
        path, fields = Path(path), self.to_dict()
        text = _yaml(path).safe_dump(fields, sort_keys=False) if _is_yaml(path) else json.dumps(fields, indent=2)
        write_text(path, text.rstrip("\n") + "\n")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a configuration that ``save`` wrote or somebody typed; missing fields take their defaults.

        Raises:
            ConfigError: the suffix is not one of ``save``'s, PyYAML is not installed, the file is not JSON or YAML, or
                it holds what ``from_dict`` refuses.
            OSError: the file can't be read.
        """
        fields = stored_fields(path)
        try:
            return cls.from_dict(fields)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def __eq__(self, other: object) -> bool:
        """Equal when every field is, and the overrides come in the same order (later ones win)."""
        if not isinstance(other, MethodConfig) or type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Hash of every field; overrides count in order."""
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the plain fields: the read-only views of the overrides can't be."""
        return type(self).from_dict, (self.to_dict(),)

    def _key(self) -> tuple[Any, ...]:
        plain = tuple(getattr(self, name) for name in self.fields() if name != "layers")
        return (*plain, tuple((pattern, tuple(sorted(o.items()))) for pattern, o in self.layers.items()))

    def _checked_layers(self) -> Mapping[str, Mapping[str, Any]]:
        if not isinstance(self.layers, Mapping):
            raise ConfigError(f"layers must map layer names to overrides, not {self.layers!r}")
        checked: dict[str, Mapping[str, Any]] = {}
        for pattern, override in self.layers.items():
            if not isinstance(pattern, str) or not isinstance(override, Mapping):
                raise ConfigError(f"layers must map a name to a mapping of fields, not {pattern!r} to {override!r}")
            check_field_names(override, self.fields()[:-1], f"layers[{pattern!r}]: ")
            try:
                alone = type(self)(**override)
            except ConfigError as error:
                raise ConfigError(f"layers[{pattern!r}]: {error}") from None
            checked[pattern] = MappingProxyType({name: getattr(alone, name) for name in override})
        return MappingProxyType(checked)


def stored_fields(path: str | PathLike[str]) -> Any:
    """What a configuration's file holds, whatever method it is of.

    Raises:
        ConfigError, OSError: see ``MethodConfig.load``; it is not checked what the file holds.
    """
    path = Path(path)
    parse = _yaml(path).safe_load if _is_yaml(path) else json.loads
    text = path.read_text(encoding="utf-8")
    try:
        return parse(text)
    except Exception as error:
        raise ConfigError(f"{path} can't be parsed: {first_line(error)}") from error


def matches_layer(pattern: str, name: str) -> bool:
    """Whether a key of overrides, a layer's qualified name or an ``fnmatch`` pattern, means a layer."""
    return pattern == name or fnmatchcase(name, pattern)


def close_to(pattern: str, known: Iterable[str]) -> str:
    """The question whether one of a few similar names was meant; empty where none is similar."""
    close = difflib.get_close_matches(pattern, list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""


def check_field_names(given: Iterable[Any], known: tuple[str, ...], where: str = "") -> None:
    """Check the names of fields.

    Raises:
        ConfigError: one is unknown; the message names the closest.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the fields are {', '.join(known)}"
            raise ConfigError(f"{where}unknown field {name!r}{hint}")


def integer(name: str, value: Any, low: int, high: int) -> int:
    """A field's value as an integer.

    Raises:
        ConfigError: it is none, or not between ``low`` and ``high``.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} must be an integer, not {value!r}")
    number = int(value.__index__())
    if not low <= number <= high:
        raise ConfigError(f"{name} must be between {low} and {high}, not {number}")
    return number


def winograd_size(name: str, value: Any) -> int:
    """A field's value as one of ``WINOGRAD_SIZES``.

    Raises:
        ConfigError: it is none.
    """
    size = integer(name, value, 0, max(WINOGRAD_SIZES))
    if size not in WINOGRAD_SIZES:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, WINOGRAD_SIZES))}, not {size}")
    return size


def non_negative(name: str, value: Any, hint: str = "") -> float:
    """A field's value as a finite number, at least 0.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ConfigError(f"{name} must be a number{hint}, not {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ConfigError(f"{name} must be finite and at least 0{hint}, not {number}")
    return number


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Check that a field's value is one of some strings.

    Raises:
        ConfigError: it isn't.
    """
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


def _is_yaml(path: Path) -> bool:
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{path}: a configuration's file ends in .json, .yaml or .yml, not {path.suffix!r}")
    return path.suffix != ".json"


def _yaml(path: Path) -> ModuleType:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: YAML needs PyYAML, `pip install haste-compiler[yaml]`; JSON does not") from None
    return yaml


def _lists(value: Any) -> Any:
    """``value`` with tuples as lists, as JSON reads them back."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
