"""What a method tells of one layer after a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from haste_compiler.methods.macs import MacCount


@dataclass(frozen=True)
class Tally:
    """What became of the things that a method decides about.

    Attributes:
        of: what they are: "channels" of patches, tiles, tokens.
        kept: computed, alone or for others.
        merged: taken into another's place.
        skipped: not computed.
    """

    of: str
    kept: int
    merged: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.of, self.kept + other.kept, self.merged + other.merged, self.skipped + other.skipped)

    @property
    def total(self) -> int:
        """All of them."""
        return self.kept + self.merged + self.skipped

    def share(self, count: int) -> float:
        """The share that so many of them are; 0 where there are none."""
        return count / max(1, self.total)


class LayerStatistics(Protocol):
    """What one layer of a method did with one batch."""

    @property
    def method(self) -> str:
        """The method's name."""

    @property
    def images(self) -> int:
        """Images in the batch, N."""

    @property
    def macs(self) -> MacCount:
        """Multiply-adds on the whole batch."""

    @property
    def tally(self) -> Tally | None:
        """What became of the things that the method decides about; None: it decides about none."""

    @property
    def image_bound(self) -> float | None:
        """Bound on the 2-norm of the worst image's output error, before the activation; None: there is no bound."""

    @property
    def computed_plainly(self) -> bool:
        """Whether the layer found, in this call, that the method doesn't pay, and was computed as it is written."""

    def inconsistency(self) -> str:
        """Why these numbers can't be true, in words; empty where they can."""
