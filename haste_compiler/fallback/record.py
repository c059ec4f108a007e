"""What PyTorch runs of a network, as a compiled network keeps it: needs no PyTorch to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Program = dict[str, Any]
"""A graph as JSON can hold it: ``inputs`` (how many), ``calls``, ``outputs``."""

_PLUMBING = ("operator.", "math.", "torch.", "aten.sym_size", "aten.permute", "aten.view.dtype")
"""Beginnings of the names of what computes nothing."""


@dataclass(frozen=True)
class Fallback:
    """A region of a network that PyTorch runs.

    Attributes:
        layer: the layer of its first operator.
        program: its graph.
    """

    layer: str
    program: Program

    @property
    def operators(self) -> list[str]:
        """The operators in it that compute, by their names, such as ``aten.sort.default``, each once."""
        names = _operators(self.program)
        return [name for name in names if not name.startswith(_PLUMBING)] or names


def _operators(program: Program) -> list[str]:
    found: list[str] = []
    for call in program["calls"]:
        found += _operators(call["graph"]) if "graph" in call else [str(call["call"]).replace("::", ".")]
    return list(dict.fromkeys(found))
