"""A node of a method's in a call that is looked at afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class Observed:
    """A node that has a method's name as ``meta["method"]``, with what it was computed from.

    Attributes:
        node: in the rewritten graph.
        values: of all nodes that this one and the deferred calls before it read, but for these calls.
        steered: values of the parameters in the place of the graph's; None: the graph's.
        image: which image of the batch is looked at.
    """

    node: fx.Node
    values: Mapping[fx.Node, Any]
    steered: Sequence[float] | None = None
    image: int = 0
