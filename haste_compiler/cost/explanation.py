"""What ``compiled.explain()`` returns: for every convolution what was chosen, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from haste_compiler.passes.layers import ConvLayer


@dataclass(frozen=True)
class LayerChoice:
    """One convolution.

    Attributes:
        name: qualified name of the layer.
        haste: whether it is a HASTE convolution.
        reason: why, or why not.
        dense_ms, haste_ms: predicted milliseconds of one call either way; None where nothing was predicted.
        kept: share of the channels that is expected to be left; None where nothing was probed.
    """

    name: str
    haste: bool
    reason: str
    dense_ms: float | None
    haste_ms: float | None
    kept: float | None


@dataclass(frozen=True)
class Explanation:
    """Every convolution of a compiled network, in the order in which they run; prints as a table."""

    layers: tuple[LayerChoice, ...]

    @classmethod
    def of(cls, layers: Sequence[ConvLayer]) -> Explanation:
        """The explanation of a network's convolutions."""
        return cls(tuple(map(_choice, layers)))

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold: ``layers``, a list of the layers' fields."""
        return {"layers": [vars(layer) for layer in self.layers]}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        """A table as plain text. No colours, no line is wrapped."""
        chosen = sum(layer.haste for layer in self.layers)
        table = Table(box=box.SIMPLE, title=f"{chosen} of {len(self.layers)} convolutions HASTE", title_justify="left")
        for name in ("layer", "chosen", "dense ms", "HASTE ms", "kept", "why"):
            table.add_column(name, justify="right" if name in ("dense ms", "HASTE ms", "kept") else "left")
        for layer in self.layers:
            numbers = (
                _number(layer.dense_ms),
                _number(layer.haste_ms),
                "" if layer.kept is None else f"{layer.kept:.0%}",
            )
            table.add_row(Text(layer.name), "HASTE" if layer.haste else "dense", *numbers, Text(layer.reason))
        console = Console(file=io.StringIO(), width=1000, color_system=None, force_terminal=False, legacy_windows=False)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def _choice(layer: ConvLayer) -> LayerChoice:
    found = layer.prediction
    if found is None:
        return LayerChoice(layer.name, layer.eligible, layer.reason, None, None, None)
    kept = found.kept if found.probed else None
    times = found.dense_seconds * 1e3, found.haste_seconds * 1e3
    return LayerChoice(layer.name, layer.eligible, layer.reason, *times, kept)


def _number(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3f}"
