"""The containers of a network's inputs and outputs, as PyTorch's pytrees know them, written down in JSON."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict, namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from haste_compiler.errors import ArtifactError
from haste_compiler.runtime.schema import SchemaError, anything, fields, number, one_of, sequence, text

_CONTAINERS = {"tuple": tuple, "list": list, "dict": dict, "OrderedDict": OrderedDict}
_DICTIONARIES, _CLASSES = ("dict", "OrderedDict"), ("namedtuple", "dataclass")
_NAMED = (*_DICTIONARIES, *_CLASSES)

_FIELDS = fields(
    {"kind": one_of("leaf", *_CONTAINERS, *_CLASSES)},
    {"keys": sequence(anything), "name": text, "children": sequence(anything)},
)


@dataclass(frozen=True)
class Structure:
    """A container, or the place of a leaf.

    Attributes:
        kind: "leaf", "tuple", "list", "dict", "OrderedDict", "namedtuple" or "dataclass".
        keys: of a dictionary, or names of the fields.
        name: of the class of a named tuple or dataclass.
        children: what is in it.
    """

    kind: str
    keys: tuple[str | int, ...] = ()
    name: str = ""
    children: tuple[Structure, ...] = ()

    @classmethod
    def of_spec(cls, spec: Any) -> Structure:
        """The structure that one of PyTorch's ``TreeSpec`` describes.

        Raises:
            ArtifactError: it has a container that only Python code could rebuild.
        """
        children = tuple(cls.of_spec(child) for child in spec.children())
        if spec.is_leaf():
            return cls("leaf")
        if spec.type in _CONTAINERS.values():
            return cls(spec.type.__name__, _checked_keys(spec.context or ()), "", children)
        if spec.type is namedtuple:
            return cls("namedtuple", spec.context._fields, spec.context.__name__, children)
        if (
            isinstance(spec.type, type)
            and dataclasses.is_dataclass(spec.type)
            and [type(names) for names in spec.context] == [list, list]
        ):
            return cls("dataclass", tuple(spec.context[0]), spec.type.__name__, children)
        name = getattr(spec.type, "__name__", str(spec.type))
        raise ArtifactError(
            f"{name} can't be saved: allowed are tensors in tuples, lists, dictionaries, named tuples and dataclasses"
        )

    @classmethod
    def of(cls, value: Any) -> Structure:
        """The structure of what a network is called with."""
        name = type(value).__name__
        if type(value) in _CONTAINERS.values():
            keys = tuple(value) if isinstance(value, dict) else ()
            items = value.values() if isinstance(value, dict) else value
            return cls(name, keys, "", tuple(map(cls.of, items)))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return cls("namedtuple", value._fields, name, tuple(map(cls.of, value)))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            present = {field: item for field, item in fields.items() if item is not None}
            return cls("dataclass", tuple(present), name, tuple(map(cls.of, present.values())))
        return cls("leaf")

    def flatten(self, value: Any) -> Iterator[Any]:
        """The leaves of a value of this structure."""
        if self.kind == "leaf":
            yield value
            return
        if self.kind == "dataclass":
            items = [getattr(value, str(key)) for key in self.keys]
        else:
            items = list(value.values() if isinstance(value, dict) else value)
        for child, item in zip(self.children, items, strict=True):
            yield from child.flatten(item)

    def build(self, leaves: Sequence[Any]) -> Any:
        """Put leaves into containers of this structure; classes are made anew, with the same names and fields."""
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> Any:
        if self.kind == "leaf":
            return next(leaves)
        items = [child._build(leaves) for child in self.children]
        if self.kind in _DICTIONARIES:
            return _CONTAINERS[self.kind](zip(self.keys, items, strict=True))
        if self.kind in _CLASSES:
            return _class(self.kind, self.name, tuple(map(str, self.keys)))(*items)
        return _CONTAINERS[self.kind](items)

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that JSON can hold."""
        found = {"kind": self.kind, "keys": list(self.keys), "name": self.name}
        kept = {key: value for key, value in found.items() if value}
        return {**kept, "children": [child.to_json() for child in self.children]} if self.children else kept

    @property
    def leaves(self) -> int:
        """How many there are."""
        return 1 if self.kind == "leaf" else sum(child.leaves for child in self.children)

    @classmethod
    def check(cls, stored: Any, place: str) -> None:
        """Check what ``from_json`` is to read.

        Raises:
            ValueError: ``to_json`` can't have written it.
        """
        _FIELDS(stored, place)
        kind, keys = stored["kind"], stored.get("keys", [])
        children = stored.get("children", [])
        if kind == "leaf" and children:
            raise ValueError(f"{place} is a leaf with children")
        if len(keys) != (len(children) if kind in _NAMED else 0):
            raise ValueError(f"{place} is a {kind} of {len(children)} children with the keys {keys}")
        for key in keys:
            if type(key) is not str and (type(key) is not int or kind not in _DICTIONARIES):
                raise SchemaError(f"a key of {place}", key, "text, in a dictionary also an integer")
        if len(set(keys)) != len(keys):
            raise ValueError(f"{place} has one of the keys {keys} twice")
        if kind in _CLASSES:
            _checked_class(kind, stored.get("name", ""), tuple(keys), place)
        for index, child in enumerate(children):
            cls.check(child, f"{place}.children[{index}]")

    @classmethod
    def from_json(cls, stored: Any) -> Structure:
        """Read what ``to_json`` wrote."""
        children = tuple(map(cls.from_json, stored.get("children", ())))
        return cls(stored["kind"], tuple(stored.get("keys", ())), stored.get("name", ""), children)


@lru_cache(maxsize=64)
def _class(kind: str, name: str, fields: tuple[str, ...]) -> Any:
    """A class of a given name and fields, one for all calls."""
    if kind == "namedtuple":
        return namedtuple(name, fields)  # type: ignore[misc]
    return dataclasses.make_dataclass(name, fields)


def _checked_class(kind: str, name: str, names: tuple[str, ...], place: str) -> None:
    try:
        _class(kind, name, names)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} can't be a {kind}: {error}") from None


def _checked_keys(keys: Sequence[Any]) -> tuple[str | int, ...]:
    for key in keys:
        if type(key) not in (str, int):
            raise ArtifactError(f"a dictionary with the key {key!r} can't be saved: allowed are strings and integers")
    return tuple(keys)


def value_to_json(value: Any) -> Any:
    """An output that is no tensor, as JSON can hold it.

    Raises:
        ArtifactError: it is no number, string or None.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    raise ArtifactError(f"an output that is {type(value).__name__} can't be saved: allowed are tensors and numbers")


def check_value(stored: Any, place: str) -> None:
    """Check what ``value_from_json`` is to read.

    Raises:
        ValueError: ``value_to_json`` can't have written it.
    """
    if isinstance(stored, dict):
        fields({"float": one_of("inf", "-inf", "nan")})(stored, place)
    elif isinstance(stored, float):
        number(stored, place)
    elif stored is not None and not isinstance(stored, bool | int | str):
        raise SchemaError(place, stored, "null, true, false, a number or text")


def value_from_json(stored: Any) -> Any:
    """Read what ``value_to_json`` wrote."""
    return float(stored["float"]) if isinstance(stored, dict) else stored
