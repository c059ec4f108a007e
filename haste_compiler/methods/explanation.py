"""What ``compiled.explain()`` returns: for every convolution what was chosen, and why."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich import box
from rich.table import Table
from rich.text import Text

from haste_compiler.fallback.record import Fallback
from haste_compiler.methods.layers import ConvLayer
from haste_compiler.methods.registry import method, names
from haste_compiler.text import as_text

_NUMBER = re.compile(r"\d+(?:\.\d+)?")

_MANY = 3
"""As many layers share a row, at least."""


@dataclass(frozen=True)
class LayerChoice:
    """One convolution, or linear layer or attention that a method judged.

    Times are predicted milliseconds of one call; None where nothing was predicted.

    Attributes:
        name: qualified name of the layer.
        method: name of the method that takes it; None: it is dense.
        reason: why, or why not.
        dense_ms: as a dense convolution.
        method_ms: under the method, on natural images where they were looked at, otherwise in the best case.
        kept: share of the work that is expected to be left on natural images.
        kind: "conv", "linear" or "attention".
        setting: how the method computes it, as the method reads it.
        output_error: the network's outputs' relative error that it is predicted to make alone under the method; None
            where that wasn't looked at.
        network_error: the same of all layers that the method takes, together.
    """

    name: str
    method: str | None
    reason: str
    dense_ms: float | None = None
    method_ms: float | None = None
    kept: float | None = None
    kind: str = "conv"
    setting: Any = None
    output_error: float | None = None
    network_error: float | None = None

    @classmethod
    def of(cls, layer: ConvLayer) -> Self:
        """What was chosen for a layer."""
        found = layer.prediction
        how: dict[str, Any] = {"kind": layer.kind, "setting": layer.setting}
        if found is None:
            return cls(layer.name, layer.method, layer.reason, **how)
        estimate = found.natural or found.best
        kept = found.natural.kept if found.natural else None
        seconds = None if math.isinf(estimate.seconds) else estimate.seconds * 1e3
        how |= {"output_error": found.output_error, "network_error": found.network_error}
        return cls(layer.name, layer.method, layer.reason, found.dense_seconds * 1e3, seconds, kept, **how)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what ``vars`` gave, in this version or in those that knew one method only.

        Raises:
            KeyError, TypeError: it is something else.
        """
        stored = dict(fields)
        if "method" not in stored:
            stored["method"] = "haste" if stored.pop("haste") else None
            stored["method_ms"] = stored.pop("haste_ms")
        return cls(**stored)

    @property
    def haste(self) -> bool:
        """Whether it is a HASTE convolution."""
        return self.method == "haste"

    @property
    def haste_ms(self) -> float | None:
        """``method_ms`` where HASTE was asked: the name it had when there was one method."""
        return self.method_ms


@dataclass(frozen=True)
class FallbackChoice:
    """Neighbouring operators that PyTorch runs, in one call.

    Attributes:
        layer: the layer of the first of them.
        operators: their names, such as "aten.sort.default", each once.
        share: of a call's time, 0 to 1; None where it was not measured.
    """

    layer: str
    operators: tuple[str, ...]
    share: float | None = None

    @classmethod
    def of(cls, fallback: Fallback, share: float | None = None) -> Self:
        """What is said of a region."""
        return cls(fallback.layer, tuple(fallback.operators), share)

    def __str__(self) -> str:
        share = "" if self.share is None else f"{self.share:.1%} of the time: "
        return f"{share}{', '.join(self.operators)} ({self.layer})"


@dataclass(frozen=True)
class Explanation:
    """Every convolution of a compiled network, in the order in which they run, and what PyTorch runs of it.

    It prints, and shows in a notebook, as a table.
    """

    layers: tuple[LayerChoice, ...]
    fallbacks: tuple[FallbackChoice, ...] = ()

    @classmethod
    def of(cls, layers: Sequence[ConvLayer], fallbacks: tuple[FallbackChoice, ...] = ()) -> Explanation:
        """The explanation of a network's convolutions."""
        return cls(tuple(map(LayerChoice.of, layers)), fallbacks)

    @property
    def output_errors(self) -> dict[str, float]:
        """By method, the outputs' relative error that its layers together are predicted to make; empty if not asked."""
        taken = [layer for layer in self.layers if layer.method is not None]
        return {str(each.method): each.network_error for each in taken if each.network_error is not None}

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold: ``layers``, ``fallbacks``, lists of their fields, and ``output_errors``."""
        layers = [{**vars(layer), "haste": layer.haste, "haste_ms": layer.haste_ms} for layer in self.layers]
        fallbacks = [vars(fallback) for fallback in self.fallbacks]
        return {"layers": layers, "fallbacks": fallbacks, "output_errors": self.output_errors}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)

    def __repr__(self) -> str:
        """A table as plain text; layers that stay dense for reasons that differ in numbers only share a row."""
        title = Text(described(self.layers), no_wrap=True, overflow="ignore")
        table = Table(box=box.SIMPLE, title=title, title_justify="left")
        for name in ("layer", "chosen", "why"):
            table.add_column(name)
        for layers in _alike(self.layers):
            first, last = layers[0], layers[-1]
            chosen = "dense" if first.method is None else method(first.method).TITLE
            name = first.name if len(layers) == 1 else f"{first.name} … {last.name} ({len(layers)} layers)"
            table.add_row(Text(name), chosen, Text(_joined([layer.reason for layer in layers])))
        lines = [as_text(table)]
        lines += [
            f"  {method(name).TITLE} is predicted to change the outputs by {100 * error:.2g} %"
            for name, error in self.output_errors.items()
        ]
        if self.fallbacks:
            lines += ["", "  left to PyTorch", *(f"    {fallback}" for fallback in self.fallbacks)]
        return "\n".join(lines)


def _alike(layers: Sequence[LayerChoice]) -> list[list[LayerChoice]]:
    """The layers, those together that share a row, in the order of the first of each."""
    groups: dict[Any, list[LayerChoice]] = {}
    for place, layer in enumerate(layers):
        predicted = layer.dense_ms is not None or layer.method is not None
        groups.setdefault(place if predicted else _NUMBER.sub("#", layer.reason), []).append(layer)
    rows = [
        row for group in groups.values() for row in ([group] if len(group) >= _MANY else [[each] for each in group])
    ]
    order = {id(layer): place for place, layer in enumerate(layers)}
    return sorted(rows, key=lambda row: order[id(row[0])])


def _joined(reasons: Sequence[str]) -> str:
    """Reasons that differ in numbers only as one: a number that differs becomes a range."""
    columns = zip(*(_NUMBER.findall(reason) for reason in reasons), strict=True)
    ranges = iter([_range(column) for column in columns])
    return _NUMBER.sub(lambda _: next(ranges), reasons[0])


def _range(values: Sequence[str]) -> str:
    least, most = min(values, key=float), max(values, key=float)
    return least if least == most else f"{least} to {most}"


def described(layers: Sequence[LayerChoice | ConvLayer]) -> str:
    """How many of some layers belong to which method, in words."""
    counts = Counter(layer.method for layer in layers if layer.method is not None)
    what = "layers" if any(layer.kind != "conv" for layer in layers) else "convolutions"
    if not counts and what == "layers":
        return f"no method takes any of {len(layers)} layers"
    counts = counts or Counter({names()[0]: 0})
    return ", ".join(f"{count} of {len(layers)} {what} {method(name).TITLE}" for name, count in counts.items())
