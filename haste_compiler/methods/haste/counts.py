"""What became of the channels of a patch, counted, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Counts(NamedTuple):
    """How many channels of a patch's conv group became what: numbers, arrays of one shape, or a kernel's expressions.

    Attributes:
        singles: channels that are convolved alone.
        groups: groups of two channels or more.
        members: channels in those groups.
        zeros: channels dropped because their window is zero.
        flats: channels dropped with their mean carried.
        merges: channels merged over both rounds of grouping.
    """

    singles: Any
    groups: Any
    members: Any
    zeros: Any
    flats: Any
    merges: Any

    @classmethod
    def split(cls, counts: NDArray[Any]) -> Counts:
        """The six of an array (..., 6): arrays (...), or numbers where it has one dimension."""
        return Counts(*np.moveaxis(counts, -1, 0))

    @property
    def channels(self) -> Any:
        """All channels of the conv group."""
        return self.singles + self.members + self.zeros + self.flats

    @property
    def kept(self) -> Any:
        """What is convolved: singles, and one channel for each group."""
        return self.singles + self.groups


COUNTS = Counts._fields
"""The names, in the order that every tensor of counts has along its last dimension."""
