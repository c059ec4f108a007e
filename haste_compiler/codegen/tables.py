"""Tables of rules that lower operators: what a rule is, and how tables are joined."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

    from haste_compiler.codegen.walk import Walk

Rule = Callable[["Walk[Any]", "fx.Node"], Any]
"""Lowers a call: launches kernels, and returns its value; None: another rule is to be asked.

Of PyTorch's operators a rule only sees calls of float32 tensors with elements in them (``trusted.is_plain``).
"""

Rules = Mapping[Any, Rule]
"""A table: by operator, the rule for calls of it."""

Joined = Mapping[Any, tuple[Rule, ...]]
"""Several tables in one: by operator its rules, in the order in which they are asked."""


def join(*tables: Rules) -> Joined:
    """Join tables; the rules of earlier ones are asked first."""
    joined: dict[Any, tuple[Rule, ...]] = {}
    for table in tables:
        for operator, rule in table.items():
            joined[operator] = (*joined.get(operator, ()), rule)
    return joined


def tables(rooms: Sequence[str]) -> Rules:
    """The tables ``RULES`` of some modules as one; a later module's rule takes an earlier one's place."""
    found: dict[Any, Rule] = {}
    for room in rooms:
        found.update(importlib.import_module(room).RULES)
    return found
