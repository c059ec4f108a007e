"""Lowering a call that merges: by the target's rule, with a record of what it saves."""

from __future__ import annotations

from typing import Any

from torch import fx

from haste_compiler.codegen.tables import Rule
from haste_compiler.codegen.walk import Walk
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.tokens.ops.token_merge import TokenMergeCall
from haste_compiler.methods.tokens.record import RECORD


def recorded(rule: Rule) -> Rule:
    """A target's rule for ``haste::token_merge`` that leaves the call's record, with its assignment as statistics."""

    def lower(walk: Walk[Any], node: fx.Node) -> Any:
        value = rule(walk, node)
        if value is not None and RECORD in node.meta:
            walk.parameters_of(layer_name(node), 0)
            walk.add_record(node.meta[RECORD], [walk.value(TokenMergeCall.of(node).assignment).expr])
        return value

    return lower
