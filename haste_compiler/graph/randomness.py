"""Refusing operators that draw random numbers: TVM would drop some of them without a word."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, unsupported

_SWITCHES = ("train", "training", "dropout_p")
"""Arguments that turn the randomness of an operator off where they are false or zero."""


def refuse_random(gm: fx.GraphModule) -> None:
    """Check that a graph gives the same outputs for the same inputs.

    Raises:
        UnsupportedOperatorError: an operator draws random numbers; the message names it and its layer.
    """
    for node in gm.graph.nodes:
        if node.op == "call_function" and _is_random(node):
            raise unsupported(node, "it draws random numbers")


def _is_random(node: fx.Node) -> bool:
    operator: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(operator, "tags", ()):
        return False
    switches = [
        argument(node, position, item.name, item.default_value)
        for position, item in enumerate(operator._schema.arguments)
        if item.name in _SWITCHES
    ]
    return not switches or any(bool(switch) for switch in switches)
