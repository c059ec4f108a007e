"""What a compiled network keeps of one grouping, and of the layers that share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.program import Record
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.settings import Settings

NAME = "haste"
"""The method's name."""


@dataclass(frozen=True)
class Grouping:
    """One grouping.

    Attributes:
        geometries: of each layer that shares it.
        images: batch size; of a dynamic batch, that of the example inputs.
        merge, skip: the rules that are compiled in.
        nonzeros: of each hyperplane, see ``HasteConfig``.
        gated: whether it is given up, for one call, where a few patches find too little to merge; its statistics then
            hold what was chosen, int32 (1,), after counts and bound.
    """

    geometries: tuple[ConvGeometry, ...]
    images: int
    merge: str
    skip: str
    nonzeros: int | None
    gated: bool = False

    @classmethod
    def of(cls, record: Record) -> Grouping:
        """Read a record's data."""
        stored: dict[str, Any] = dict(record.data)
        return cls(**{**stored, "geometries": tuple(ConvGeometry(**each) for each in stored["geometries"])})

    def record(self, layers: Sequence[str], settings: Settings) -> Record:
        """The record of the layers that share it, in the geometries' order."""
        return Record(NAME, tuple(layers), tuple(settings), 3 if self.gated else 2, dataclasses.asdict(self))


def from_group(stored: Mapping[str, Any]) -> Record:
    """A record from what files of format 1 hold of a grouping.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    rest = dict(stored)
    layers, values = rest.pop("layers"), rest.pop("settings")
    grouping = Grouping(**{**rest, "geometries": tuple(ConvGeometry(**each) for each in rest["geometries"])})
    return grouping.record(layers, Settings.read([math.inf if value is None else value for value in values]))
