"""``HasteConfig``: what is merged, how carefully, and in which layers."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, Self

from haste_compiler.errors import ConfigError, first_line

MAX_HYPERPLANES = 30
"""Most hyperplanes that a code can hold: its bits fit a positive int32."""

MAX_PATCH_SIZE = 64
_MAX_NONZEROS = 1024
_USUAL_PATCH = 8
WINOGRAD_SIZES = (0, 2, 4)
"""Sides of Winograd's tiles of outputs; 0: the algorithm isn't used."""

MERGES = ("mean", "projection")
SKIPS = ("none", "zeros", "flat")
"""What ``merge`` and ``skip`` may be."""


def even_patch(output_size: tuple[int, int], side: int) -> tuple[int, int]:
    """A patch's (height, width), each about ``side``, of which patches share the output plane evenly."""
    height, width = (-(-length // max(1, round(length / side))) for length in output_size)
    return height, width


@dataclass(frozen=True, eq=False)
class HasteConfig:
    """How the convolutions of a network are turned into HASTE convolutions. Immutable, hashable, JSON-able.

    Attributes:
        enabled: False compiles the same network dense.
        num_hyperplanes: hyperplanes in use, that is bits of a channel's code (1 to 30). More planes merge less.
        nonzeros: non-zero entries of a hyperplane, half of them +1 and half -1 (an even number, 2 to 1024; no more than
            the window has pixels). 2: a bit of the code compares two pixels, which costs next to nothing and groups
            feature maps better than dense hyperplanes do. None: the published draw, a third of the entries.
        patch_size: side of a patch in output pixels, or ``(height, width)`` (1 to 64); a patch larger than the output
            plane is cut to it. None: about 8, chosen so that patches share the output plane evenly.
        merge: "mean" (the published rule: a group becomes its mean) or "projection" (each member keeps a
            coefficient on the group's sum).
        tolerance: a channel whose predicted damage exceeds this times the patch's rms is computed exactly (finite,
            at least 0); None turns the check off.
        skip: channels dropped before grouping: "none", "zeros" (windows that are all zero) or "flat" (also windows
            that are nearly constant; their mean is carried exactly).
        flat_tolerance: how far from constant a flat window may be, times the patch's rms (finite, at least 0).
        seed: seed of the hyperplanes (0 to 2^31 - 1), combined with each layer's name.
        min_channels: a convolution with fewer input channels per group stays dense (at least 1).
        min_reads: a convolution whose input pixels are read by fewer outputs each, ``kh * kw / (stride_h * stride_w)``,
            stays dense (at least 0): 1×1 and strided 3×3 ones gain less than grouping costs. 0 lets every one in.
        cost_model: True: an eligible convolution becomes a HASTE convolution only if it is predicted to be faster for
            it on this machine. False: every eligible one does.
        winograd: largest side of the tiles of outputs for which a 3×3 convolution that stays dense may be computed by
            Winograd's algorithm, where that is predicted to be faster: 4 (relative errors of about 2e-6 instead of
            1e-6), 2 (5e-7) or 0 (never).
        layers: overrides, from a layer's qualified name or an ``fnmatch`` pattern of it to the fields that differ
            there, e.g. ``{"layer1.*": {"tolerance": 0.2}, "fc": {"enabled": False}}``. Later entries win.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    enabled: bool = True
    num_hyperplanes: int = 16
    nonzeros: int | None = 2
    patch_size: int | tuple[int, int] | None = None
    merge: Literal["mean", "projection"] = "projection"
    tolerance: float | None = 0.4
    skip: Literal["none", "zeros", "flat"] = "flat"
    flat_tolerance: float = 0.15
    seed: int = 0
    min_channels: int = 8
    min_reads: int = 4
    cost_model: bool = True
    winograd: int = 4
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field and bring numbers and overrides into their plain form."""
        for name in ("enabled", "cost_model"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        self._set("num_hyperplanes", _integer("num_hyperplanes", self.num_hyperplanes, 1, MAX_HYPERPLANES))
        if self.nonzeros is not None:
            self._set("nonzeros", _integer("nonzeros", self.nonzeros, 2, _MAX_NONZEROS))
            if self.nonzeros % 2:
                raise ConfigError(f"nonzeros must be even (half +1, half -1) or None, not {self.nonzeros}")
        self._set("patch_size", _patch_size(self.patch_size))
        _choice("merge", self.merge, MERGES)
        if self.tolerance is not None:
            self._set("tolerance", _non_negative("tolerance", self.tolerance, " (None turns it off)"))
        _choice("skip", self.skip, SKIPS)
        self._set("flat_tolerance", _non_negative("flat_tolerance", self.flat_tolerance))
        self._set("seed", _integer("seed", self.seed, 0, 2**31 - 1))
        self._set("min_channels", _integer("min_channels", self.min_channels, 1, 2**31 - 1))
        self._set("min_reads", _integer("min_reads", self.min_reads, 0, 2**31 - 1))
        self._set("winograd", _integer("winograd", self.winograd, 0, max(WINOGRAD_SIZES)))
        if self.winograd not in WINOGRAD_SIZES:
            raise ConfigError(f"winograd must be one of {', '.join(map(str, WINOGRAD_SIZES))}, not {self.winograd}")
        self._set("layers", self._checked_layers())

    @classmethod
    def paper(cls) -> Self:
        """The published method and nothing else: mean, 14 dense planes, patch 8, no tolerance, nothing skipped."""
        return cls(
            num_hyperplanes=14,
            nonzeros=None,
            patch_size=8,
            merge="mean",
            tolerance=None,
            skip="none",
            min_reads=0,
            cost_model=False,
        )

    @classmethod
    def exact(cls) -> Self:
        """Save only what changes nothing: projection with tolerance 0, and windows that are all zero skipped."""
        return cls(merge="projection", tolerance=0.0, skip="zeros", min_reads=0, cost_model=False)

    def patch_for(self, output_size: tuple[int, int]) -> tuple[int, int]:
        """Return the patch's (height, width) in output pixels on an output plane of this size."""
        if self.patch_size is None:
            return even_patch(output_size, _USUAL_PATCH)
        return (self.patch_size, self.patch_size) if isinstance(self.patch_size, int) else self.patch_size

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            ConfigError: an unknown field or a value out of range.
        """
        _check_field_names(changes, _FIELDS)
        return dataclasses.replace(self, **changes)

    def for_layer(self, name: str) -> Self:
        """Return one layer's configuration: the overrides that match ``name`` applied in order, ``layers`` empty."""
        changes: dict[str, Any] = {"layers": {}}
        for pattern, override in self.layers.items():
            if matches_layer(pattern, name):
                changes.update(override)
        return dataclasses.replace(self, **changes)

    def check_layers(self, names: Iterable[str]) -> None:
        """Check that every key of ``layers`` matches one of the layers called ``names``.

        Raises:
            ConfigError: a key matches nothing; the message names it and the closest layers.
        """
        known = list(names)
        for pattern in self.layers:
            if any(matches_layer(pattern, name) for name in known):
                continue
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
            raise ConfigError(f"layers: {pattern!r} matches none of the {len(known)} eligible layers{hint}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold; ``from_dict`` reads it back."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields["layers"] = {pattern: dict(override) for pattern, override in self.layers.items()}
        return _lists(fields)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a configuration from a dictionary as ``to_dict`` returns it; missing fields take their defaults.

        Raises:
            ConfigError: ``fields`` is no mapping, names an unknown field or holds a value out of range.
        """
        if not isinstance(fields, Mapping):
            raise ConfigError(f"a configuration is a mapping of fields, not {type(fields).__name__}")
        _check_field_names(fields, _FIELDS)
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
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a configuration that ``save`` wrote or somebody typed; missing fields take their defaults.

        Raises:
            ConfigError: the suffix is not one of ``save``'s, PyYAML is not installed, the file is not JSON or YAML, or
                it holds what ``from_dict`` refuses.
            OSError: the file can't be read.
        """
        path = Path(path)
        parse = _yaml(path).safe_load if _is_yaml(path) else json.loads
        text = path.read_text(encoding="utf-8")
        try:
            return cls.from_dict(parse(text))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except Exception as error:
            raise ConfigError(f"{path} can't be parsed: {first_line(error)}") from error

    def __eq__(self, other: object) -> bool:
        """Equal when every field is, and the overrides come in the same order (later ones win)."""
        if not isinstance(other, HasteConfig):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Hash of every field; overrides count in order."""
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the plain fields: the read-only views of the overrides can't be."""
        return type(self).from_dict, (self.to_dict(),)

    def _key(self) -> tuple[Any, ...]:
        plain = tuple(getattr(self, name) for name in _FIELDS if name != "layers")
        return (*plain, tuple((pattern, tuple(sorted(o.items()))) for pattern, o in self.layers.items()))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _checked_layers(self) -> Mapping[str, Mapping[str, Any]]:
        if not isinstance(self.layers, Mapping):
            raise ConfigError(f"layers must map layer names to overrides, not {self.layers!r}")
        checked: dict[str, Mapping[str, Any]] = {}
        for pattern, override in self.layers.items():
            if not isinstance(pattern, str) or not isinstance(override, Mapping):
                raise ConfigError(f"layers must map a name to a mapping of fields, not {pattern!r} to {override!r}")
            _check_field_names(override, _FIELDS[:-1], f"layers[{pattern!r}]: ")
            try:
                alone = HasteConfig(**override)
            except ConfigError as error:
                raise ConfigError(f"layers[{pattern!r}]: {error}") from None
            checked[pattern] = MappingProxyType({name: getattr(alone, name) for name in override})
        return MappingProxyType(checked)


_FIELDS = tuple(item.name for item in dataclasses.fields(HasteConfig))


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


def matches_layer(pattern: str, name: str) -> bool:
    """Whether a key of overrides, a layer's qualified name or an ``fnmatch`` pattern, means a layer."""
    return pattern == name or fnmatchcase(name, pattern)


def _check_field_names(given: Iterable[Any], known: tuple[str, ...], where: str = "") -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the fields are {', '.join(known)}"
            raise ConfigError(f"{where}unknown field {name!r}{hint}")


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} must be an integer, not {value!r}")
    number = int(value.__index__())
    if not low <= number <= high:
        raise ConfigError(f"{name} must be between {low} and {high}, not {number}")
    return number


def _non_negative(name: str, value: Any, hint: str = "") -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ConfigError(f"{name} must be a number{hint}, not {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ConfigError(f"{name} must be finite and at least 0{hint}, not {number}")
    return number


def _patch_size(value: Any) -> int | tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ConfigError(f"patch_size must be an integer or (height, width), not {value!r}")
        height, width = (_integer("patch_size", side, 1, MAX_PATCH_SIZE) for side in value)
        return height, width
    return _integer("patch_size", value, 1, MAX_PATCH_SIZE)


def _choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


def _lists(value: Any) -> Any:
    """``value`` with tuples as lists, as JSON reads them back."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


CONFIG = HasteConfig
"""The class that the registry of methods finds here."""
