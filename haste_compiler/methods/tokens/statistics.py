"""What merging tokens saved in one call, of the layer behind which they merge and of those after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haste_compiler.codegen.program import Record
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.statistics import Tally
from haste_compiler.methods.tokens.config import NAME


@dataclass(frozen=True)
class TokenStats:
    """What one layer did with one batch.

    Attributes:
        images: in the batch.
        assignment: int32 (images, tokens): by which the tokens merged that the layer has, see ``reference.merging``.
        macs: multiply-adds, of all tokens and of those that are left.
        tally: of tokens, where they merge; None of a layer that only has fewer.
    """

    images: int
    assignment: NDArray[np.int32] = field(repr=False, compare=False)
    macs: MacCount
    tally: Tally | None = None

    @property
    def method(self) -> str:
        """The method's name."""
        return NAME

    @property
    def image_bound(self) -> None:
        """There is no bound on what merging changes."""
        return None

    @property
    def computed_plainly(self) -> bool:
        """See ``LayerStatistics``: never."""
        return False

    def inconsistency(self) -> str:
        """See ``LayerStatistics``."""
        own = self.macs.parts.get("convolution", 0)
        return f"counts {own} multiply-adds of fewer tokens, {self.macs.dense} of all" if own > self.macs.dense else ""


def read(record: Record, statistics: Sequence[NDArray[Any]]) -> dict[str, TokenStats]:
    """What the layers of a record did.

    Args:
        record: as ``record.record_of`` makes it.
        statistics: the assignment, int32 (images, tokens).
    """
    assignment = np.array(statistics[0], np.int32)
    images = len(assignment)
    found = {}
    for name, counted in record.data["layers"].items():
        parts = {part: images * count for part, count in counted["parts"].items()}
        tokens: Mapping[str, int] | None = counted.get("tokens")
        tally = tokens and Tally("tokens", images * tokens["kept"], images * tokens["merged"])
        found[name] = TokenStats(images, assignment, MacCount(images * counted["dense"], **parts), tally or None)
    return found


def check(record: Record) -> None:
    """Check what a record from a file holds.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    if record.statistics != 1 or record.values:
        raise ValueError(f"{NAME} has one tensor of statistics and no parameters")
    for counted in record.data["layers"].values():
        numbers = [counted["dense"], *counted["parts"].values(), *counted.get("tokens", {}).values()]
        if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
            raise ValueError("counts are integers, at least 0")
