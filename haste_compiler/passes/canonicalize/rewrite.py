"""What a rewrite is, and what rewrites share."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from haste_compiler.graph.nodes import Target, insert_call, is_call, replace

Rewrite = Callable[[fx.GraphModule, fx.Node], None]
"""Brings one call into its plain form, or leaves it as it is. The graph's insertion point is before the call."""

Rewrites = dict[object, Rewrite]
"""Rewrites by the operator that they are for."""


def source_of(node: fx.Node) -> fx.Node:
    """The tensor that a call takes first."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def call(gm: fx.GraphModule, node: fx.Node, target: Target, *args: Any) -> None:
    """Take a call of ``target`` instead of ``node``."""
    replace(node, insert_call(gm, target, args, node))


def call_for_first(gm: fx.GraphModule, node: fx.Node, target: Target, *args: Any) -> None:
    """Take ``target`` instead of a call with several results, of which nobody asks for another than the first."""
    users = list(node.users)
    if all(is_call(user, operator.getitem) and user.args[1] == 0 for user in users):
        for user in users:
            call(gm, user, target, *args)
        gm.graph.erase_node(node)
