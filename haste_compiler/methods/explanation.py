"""What ``compiled.explain()`` returns: for every convolution what was chosen, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from haste_compiler.methods.layers import ConvLayer


@dataclass(frozen=True)
class LayerChoice:
    """One convolution. Times are predicted milliseconds of one call; None where nothing was predicted.

    Attributes:
        name: qualified name of the layer.
        haste: whether it is a HASTE convolution.
        reason: why, or why not.
        dense_ms: as a dense convolution.
        haste_ms: as a HASTE convolution, on natural images where they were looked at, otherwise in the best case.
        kept: share of the channels that is expected to be left on natural images.
    """

    name: str
    haste: bool
    reason: str
    dense_ms: float | None = None
    haste_ms: float | None = None
    kept: float | None = None


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
        for name in ("layer", "chosen", "why"):
            table.add_column(name)
        for layer in self.layers:
            table.add_row(Text(layer.name), "HASTE" if layer.haste else "dense", Text(layer.reason))
        console = Console(file=io.StringIO(), width=1000, color_system=None, force_terminal=False, legacy_windows=False)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def _choice(layer: ConvLayer) -> LayerChoice:
    found = layer.prediction
    if found is None:
        return LayerChoice(layer.name, layer.eligible, layer.reason)
    natural = found.natural
    return LayerChoice(
        layer.name,
        layer.eligible,
        layer.reason,
        found.dense_seconds * 1e3,
        (natural or found.best).seconds * 1e3,
        natural.kept if natural else None,
    )
