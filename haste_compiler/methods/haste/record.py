"""What a compiled network keeps of one grouping, and of the layers that share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.program import Record
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.config import integer
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.settings import Settings

NAME = "haste"
"""The method's name."""

_MOST = 2**31 - 1


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

    @property
    def statistics(self) -> int:
        """Tensors of statistics: counts, bound, and what was chosen if it is gated."""
        return 3 if self.gated else 2

    def record(self, layers: Sequence[str], settings: Settings) -> Record:
        """The record of the layers that share it, in the geometries' order."""
        return Record(NAME, tuple(layers), tuple(settings), self.statistics, dataclasses.asdict(self))


def check(record: Record) -> None:
    """Check what a file says of a grouping.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    grouping = Grouping.of(record)
    if len(grouping.geometries) != len(record.layers):
        raise ValueError(f"{len(record.layers)} layers have {len(grouping.geometries)} geometries")
    # The configuration knows what these may be.
    HasteConfig(merge=grouping.merge, skip=grouping.skip, nonzeros=grouping.nonzeros)  # type: ignore[arg-type]
    integer("images", grouping.images, 1, _MOST)
    for geometry in grouping.geometries:
        for value in dataclasses.astuple(geometry):
            for each in value if isinstance(value, tuple) else (value,):
                integer("a number of a geometry", each, 0, _MOST)
    if not isinstance(grouping.gated, bool) or record.statistics != grouping.statistics:
        raise ValueError(f"gated is {grouping.gated!r}, and there are {record.statistics} tensors of statistics")


def from_group(stored: Mapping[str, Any]) -> Record:
    """A record from what files of format 1 hold of a grouping.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    rest = dict(stored)
    layers, values = rest.pop("layers"), rest.pop("settings")
    grouping = Grouping(**{**rest, "geometries": tuple(ConvGeometry(**each) for each in rest["geometries"])})
    return grouping.record(layers, Settings.read([math.inf if value is None else value for value in values]))
