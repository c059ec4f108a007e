"""What a search must keep: one limit, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haste_compiler.errors import HasteError, InputError

if TYPE_CHECKING:
    from haste_compiler.search.result import SearchResult

_ALLOWED = {
    "max_accuracy_drop": "between 0 and 1, both excluded",
    "min_agreement": "between 0 and 1, both excluded",
    "max_output_error": "above 0",
    "target_macs": "between 0 and 1, both excluded",
    "target_latency": "milliseconds, above 0",
}


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
        kind: "max_accuracy_drop", "min_agreement", "max_output_error", "target_macs" or "target_latency".
        limit: its value: parts of 1, and milliseconds for a latency.
    """

    kind: str
    limit: float

    @property
    def on_quality(self) -> bool:
        """Whether it limits the damage; otherwise it asks for savings, and the damage is made as small as it can be."""
        return not self.kind.startswith("target_")

    @property
    def needs_scores(self) -> bool:
        """Whether it limits what becomes of classes."""
        return self.kind in ("max_accuracy_drop", "min_agreement")


class BudgetError(HasteError):
    """The search ran, and nothing that it measured keeps the budget.

    Attributes:
        result: all that was found; its ``config`` is the one that comes nearest.
    """

    def __init__(self, message: str, result: SearchResult) -> None:
        super().__init__(message)
        self.result = result


def one_budget(**limits: Any) -> Budget:
    """Pick the one limit that is not None.

    Raises:
        InputError: none is given or several are, or it is out of range.
    """
    given = {kind: limit for kind, limit in limits.items() if limit is not None}
    if len(given) != 1:
        found = f"{', '.join(given)} are given" if given else "none is given"
        raise InputError(f"a search takes exactly one budget: {found}; allowed is one of {', '.join(_ALLOWED)}")
    ((kind, limit),) = given.items()
    number = isinstance(limit, (int, float)) and not isinstance(limit, bool) and math.isfinite(limit)
    if not number or limit <= 0 or (kind not in ("max_output_error", "target_latency") and limit >= 1):
        raise InputError(f"{kind} is {limit!r}: allowed are numbers {_ALLOWED[kind]}")
    return Budget(kind, float(limit))
