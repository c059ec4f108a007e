"""What a merging leaves for its statistics: how many multiply-adds an image takes in the layers that it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from haste_compiler.codegen.program import Record
from haste_compiler.graph.nodes import is_call, layer_name, shape_of
from haste_compiler.methods.products import OperatorMacs, operator_macs_of
from haste_compiler.methods.tokens.config import NAME
from haste_compiler.methods.tokens.local import Within
from haste_compiler.methods.tokens.macs import merging_macs
from haste_compiler.methods.tokens.ops.token_merge import TokenMergeCall
from haste_compiler.methods.tokens.ops.tome_match import TOME_MATCH
from haste_compiler.methods.tokens.spread import Merged
from haste_compiler.ops.linear import LINEAR

RECORD = "token_record"
"""Where the ``meta`` of a call that merges keeps its ``Record``."""

_COUNTED = (LINEAR, TOME_MATCH, torch.ops.aten.scaled_dot_product_attention.default)

Counted = Mapping[fx.Node, OperatorMacs]


def counted(gm: fx.GraphModule) -> dict[fx.Node, OperatorMacs]:
    """The operators of a graph that may have fewer tokens, and those that match them."""
    return {
        node: macs
        for node in gm.graph.nodes
        if is_call(node, *_COUNTED) and (macs := operator_macs_of(node)) is not None
    }


def leave_records(merged: list[Merged], before: Counted, after: Counted) -> None:
    """Write to every call that merges what is to be told of the layers that it changes.

    Args:
        merged: what was merged in a graph.
        before: the operators that multiplied before that.
        after: those that do now.
    """
    own = {node: each for each in merged for node in each.products}
    first = {node for node in before if node not in own}
    for each in merged:
        layers: dict[str, dict[str, Any]] = {}
        attention = each.merging.attention
        for node in [*each.products, *([attention] if attention in first else [])]:
            _add(layers, before[node], after[node].macs, each.counts.images)
        each.call.meta[RECORD] = Record(NAME, (layer_name(attention),), (), 1, {"layers": layers})
    for each in merged:
        _add_overhead(each, own.get(each.merging.attention, each), before, after)


def leave_local_records(within: list[Within], before: Counted, after: Counted) -> None:
    """The same where tokens merge within attention; arguments as of ``leave_records``."""
    for each in within:
        node, call = each.merging.attention, TokenMergeCall.of(each.call)
        rows, merged = shape_of(call.x), each.merging.count
        layers: dict[str, dict[str, Any]] = {}
        _add(layers, before[node], after[each.attended].macs, rows[0])
        entry = layers[before[node].layer]
        entry["parts"]["matching"] = after[call.assignment].macs // rows[0]
        entry["parts"]["merging"] = 3 * merging_macs(rows, merged) // rows[0]
        entry["tokens"] = {"kept": call.merged_to, "merged": merged}
        each.call.meta[RECORD] = Record(NAME, (layer_name(node),), (), 1, {"layers": layers})


def _add(layers: dict[str, dict[str, Any]], dense: OperatorMacs, spent: int, images: int) -> None:
    entry = layers.setdefault(dense.layer, {"dense": 0, "parts": {"convolution": 0}})
    entry["dense"] += dense.macs // images
    entry["parts"]["convolution"] += spent // images


def _add_overhead(merged: Merged, holder: Merged, before: Counted, after: Counted) -> None:
    """Add what matching and merging take to the attention behind which they are."""
    call, images = TokenMergeCall.of(merged.call), merged.counts.images
    entry = holder.call.meta[RECORD].data["layers"][before[merged.merging.attention].layer]
    kept, all_of_them = call.merged_to, shape_of(call.x)[1]
    entry["parts"]["matching"] = after[call.assignment].macs // images
    entry["parts"]["merging"] = merging_macs(shape_of(call.x), all_of_them - kept) // images
    entry["tokens"] = {"kept": kept, "merged": all_of_them - kept}
