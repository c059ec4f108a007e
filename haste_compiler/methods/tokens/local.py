"""``attend(q, k, v)`` -> ``copy(attend(merge(q), merge(k), merge(v)))``: tokens merge within one attention."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import add_tensor, argument, insert_call, shape_of
from haste_compiler.methods.tokens.attention import ROWS, UnfitError, check_batch
from haste_compiler.methods.tokens.macs import matching_macs, merging_macs
from haste_compiler.methods.tokens.ops.token_copy import TokenCopyCall
from haste_compiler.methods.tokens.ops.token_merge import TokenMergeCall
from haste_compiler.methods.tokens.ops.tome_match import TomeMatchCall
from haste_compiler.methods.tokens.spread import heads_mean

aten = torch.ops.aten

_MOVED = 8
"""Multiply-adds in the time that a value takes to be moved."""


@dataclass(frozen=True)
class LocalMerging:
    """What merges within an attention.

    Attributes:
        attention: its node, of queries, keys and values (B, N, D) or (B, H, N, D) of the same tokens.
        count: how many tokens merge.
        protected: how many of the first ones never do.
    """

    attention: fx.Node
    count: int
    protected: int

    @property
    def tokens(self) -> int:
        """Before merging."""
        return shape_of(self.attention)[-2]

    def pays(self) -> bool:
        """Whether it saves more multiply-adds than it takes."""
        *leading, tokens, width = shape_of(self.attention)
        heads = leading[1] if len(leading) > 1 else 1
        rows = (leading[0], tokens, heads * width)
        saved = 2 * leading[0] * (tokens**2 - (tokens - self.count) ** 2) * rows[-1]
        matching = matching_macs((leading[0], tokens, width), self.count, self.protected)
        moved = 4 * rows[0] * rows[1] * rows[2] * _MOVED
        return saved > matching + 3 * merging_macs(rows, self.count) + moved


def why_not(node: fx.Node) -> str:
    """Why tokens can't merge within an attention; empty where they can."""
    query, key, value = (shape_of(each) for each in node.args[:3])  # type: ignore[arg-type]
    try:
        check_batch(node)
    except UnfitError as error:
        return str(error)
    if argument(node, 3, "attn_mask") is not None or argument(node, 5, "is_causal", False):
        return "it has a mask or bias by the tokens' places"
    if len(query) not in (3, 4) or query[:-1] != key[:-1] or key[:-1] != value[:-1]:
        return "its queries and keys are not the same tokens"
    return ""


@dataclass(frozen=True)
class Within:
    """What became of an attention.

    Attributes:
        merging: what merged.
        call: the first call that merges.
        attended: the attention of what is left.
    """

    merging: LocalMerging
    call: fx.Node
    attended: fx.Node


def merge_within(gm: fx.GraphModule, merging: LocalMerging) -> Within:
    """Merge within an attention, whose result has the shape that it had."""
    node = merging.attention
    read: Any = node.args[:3]
    kept = merging.tokens - merging.count
    with gm.graph.inserting_before(node):
        rows = [_rows(gm, each, node) for each in read]
        images, tokens, _ = shape_of(rows[0])
        metric = heads_mean(gm, read[1], images, node)
        assignment = TomeMatchCall(metric, merging.count, merging.protected).insert(gm, node)
        ones = add_tensor(gm, "tokens.size", torch.ones(images, tokens), rows[0])
        calls = [TokenMergeCall(each, ones, assignment, kept).insert(gm, node) for each in rows]
        merged = [insert_call(gm, operator.getitem, (call, 0), node) for call in calls]
        size = insert_call(gm, operator.getitem, (calls[0], 1), node)
        mask = insert_call(gm, aten.log.default, (size,), node)
        ones_between = [1] * (len(shape_of(node)) - 2)
        mask = insert_call(gm, aten.reshape.default, (mask, [-1, *ones_between, kept]), node)
        inputs = [_heads(gm, each, node) for each in merged]
        attended = insert_call(gm, node.target, tuple(inputs), node)  # type: ignore[arg-type]
        attended.kwargs = {**node.kwargs, "attn_mask": mask}
        copied = TokenCopyCall(_rows(gm, attended, node), assignment).insert(gm, node)
        result = _heads(gm, copied, node)
    node.replace_all_uses_with(result)
    return Within(merging, calls[0], attended)


def _rows(gm: fx.GraphModule, x: Any, like: fx.Node) -> fx.Node:
    """(B, H, N, D) as (B, N, H·D)."""
    if len(shape_of(x)) == ROWS:
        rows: fx.Node = x
        return rows
    _, heads, tokens, width = shape_of(x)
    x = insert_call(gm, aten.permute.default, (x, [0, 2, 1, 3]), like)
    return insert_call(gm, aten.reshape.default, (x, [-1, tokens, heads * width]), like)


def _heads(gm: fx.GraphModule, rows: fx.Node, like: fx.Node) -> fx.Node:
    """(B, N, H·D) as (B, H, N, D), if the attention ``like`` has heads."""
    shape = shape_of(like)
    if len(shape) == ROWS:
        return rows
    _, tokens, width = shape_of(rows)
    x = insert_call(gm, aten.reshape.default, (rows, [-1, tokens, shape[1], width // shape[1]]), like)
    return insert_call(gm, aten.permute.default, (x, [0, 2, 1, 3]), like)
