"""Fewer tokens behind each merging: every node after it is recomputed for them, or gets copies of what they became.

Nothing is taken for granted: a node follows by a rule of ``follow``, and the shape that it then has is held against the
one that it had.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from haste_compiler.graph.nodes import add_tensor, fake_value, insert_call, is_call, layer_name, shape_of
from haste_compiler.methods.tokens.attention import ROWS, Stream, rows_of
from haste_compiler.methods.tokens.follow import CannotFollowError, Counts, Layout, follow
from haste_compiler.methods.tokens.ops.token_copy import TokenCopyCall
from haste_compiler.methods.tokens.ops.token_merge import TokenMergeCall
from haste_compiler.methods.tokens.ops.tome_match import TomeMatchCall
from haste_compiler.methods.tokens.place import Place
from haste_compiler.methods.tokens.reference.bipartite import most_merged
from haste_compiler.ops.linear import LINEAR

aten = torch.ops.aten


@dataclass(frozen=True)
class Merging:
    """What merges behind an attention.

    Attributes:
        attention: its node.
        stream: the tokens that it attends to.
        wanted: how many tokens are to merge.
        protected: how many of the first ones never do.
    """

    attention: fx.Node
    stream: Stream
    wanted: int
    protected: int

    def on(self, twin: Mapping[fx.Node, fx.Node]) -> Merging:
        """The same in a copy of the graph."""
        stream = replace(self.stream, join=twin[self.stream.join])
        return replace(self, attention=twin[self.attention], stream=stream)


@dataclass(eq=False)
class Merged:
    """The tokens behind a merging.

    Attributes:
        merging: after which they are fewer.
        counts: of them.
        assignment: int32 (B, tokens before it).
        size: (B, tokens): how many each stands for.
        before: those that it merged; None: as the network is written.
        call: the node that merges.
        products: convolutions, linear layers and attention of them.
        obstacle: why something later needed copies; the first reason.
        masks: the logarithms of the sizes, by what attention reads them.
    """

    merging: Merging
    counts: Counts
    assignment: fx.Node
    size: fx.Node
    before: Merged | None
    call: fx.Node
    products: list[fx.Node] = field(default_factory=list)
    obstacle: str = ""
    masks: dict[tuple[int, bool], fx.Node] = field(default_factory=dict)


@dataclass(frozen=True)
class _Flow:
    layout: Layout
    merged: Merged


class Spread:
    """One walk over a graph, which it changes.

    Args:
        gm: a graph that the passes went over.

    Attributes:
        merged: what was merged, in order.
        unfit: by attention, why its tokens couldn't merge.
    """

    def __init__(self, gm: fx.GraphModule) -> None:
        self._gm = gm
        self._flows: dict[fx.Node, _Flow] = {}
        self._written: dict[fx.Node, tuple[Any, Any]] = {}
        self._copies: dict[fx.Node, fx.Node] = {}
        self.merged: list[Merged] = []
        self.unfit: dict[fx.Node, str] = {}

    def run(self, mergings: Iterable[Merging]) -> None:
        """Merge tokens behind some attentions."""
        behind = {merging.stream.join: merging for merging in mergings}
        for node in list(self._gm.graph.nodes):
            if any(read in self._flows for read in node.all_input_nodes):
                self._visit(node)
            if node in behind:
                self._merge(behind[node])

    # Following

    def _visit(self, node: fx.Node) -> None:
        flows = {read: self._flows[read] for read in node.all_input_nodes if read in self._flows}
        merged = next(iter(flows.values())).merged
        attends = is_call(node, aten.scaled_dot_product_attention.default)
        try:
            if any(flow.merged is not merged for flow in flows.values()):
                raise CannotFollowError(f"{node.target} of {node.name} meets tokens that merged at different places")
            followed = follow(node, {read: flow.layout for read, flow in flows.items()}, merged.counts)
            masked = {"attn_mask": self._mask(node, flows, merged)} if attends else {}
        except CannotFollowError as error:
            for flow in flows.values():
                flow.merged.obstacle = flow.merged.obstacle or str(error)
            copies = {read: self._copied(read) for read in flows}
            node.args, node.kwargs = map_arg((node.args, node.kwargs), lambda read: copies.get(read, read))
            return
        before = shape_of(node)
        self._written[node] = (node.args, node.kwargs)
        node.args, node.kwargs = followed.args, {**node.kwargs, **masked}
        node.meta["val"] = fake_value(node)
        assert shape_of(node) == _fewer(before, followed.layout, merged.counts), f"{node.name} did not follow"
        if followed.layout is not None:
            self._flows[node] = _Flow(followed.layout, merged)
        if is_call(node, LINEAR) or attends:
            merged.products.append(node)

    def _mask(self, node: fx.Node, flows: Mapping[fx.Node, _Flow], merged: Merged) -> fx.Node:
        """The logarithms of the sizes of an attention's keys, which its scores are increased by."""
        key: Any = node.args[1]
        *leading, tokens, _ = shape_of(key)
        images, place = merged.counts.images, flows[key].layout.images
        by_image = images == 1 or place == Place(0)
        if not by_image and (place is None or place.axis or place.before > 1 or len(leading) > 1):
            raise CannotFollowError(f"{node.target} of {layer_name(node)} can't tell the images of a batch apart")
        if (len(leading), by_image) not in merged.masks:
            with self._gm.graph.inserting_before(node):
                mask = self._insert(aten.log.default, (merged.size,), node)
                sizes = [-1, *[1] * (len(leading) if by_image else 1), tokens]
                mask = self._insert(aten.reshape.default, (mask, sizes), node)
                if not by_image:
                    mask = self._insert(aten.expand.default, (mask, [images, leading[0] // images, tokens]), node)
                    mask = self._insert(aten.reshape.default, (mask, [leading[0], 1, tokens]), node)
            merged.masks[len(leading), by_image] = mask
        return merged.masks[len(leading), by_image]

    # Copying back

    def _copied(self, node: fx.Node) -> fx.Node:
        """A node's value for all tokens of the network as it is written."""
        if node not in self._copies:
            with self._gm.graph.inserting_before(node.next):
                self._copies[node] = self._copy(node)
        return self._copies[node]

    def _copy(self, node: fx.Node) -> fx.Node:
        flow = self._flows[node]
        layout, shape = flow.layout, shape_of(node)
        one_image = flow.merged.counts.images == 1
        told = one_image or (layout.images is not None and layout.images.is_whole)
        if not (layout.tokens.is_whole and told):
            return self._written_again(node)
        leading = [layout.tokens.axis]
        if not one_image:
            assert layout.images is not None
            leading.insert(0, layout.images.axis)
        order = [*leading, *(axis for axis in range(len(shape)) if axis not in leading)]
        rest = [shape[axis] for axis in order[len(leading) :]]
        if order == list(range(ROWS)):
            return self._copied_rows(node, flow.merged)
        rows = self._insert(aten.permute.default, (node, order), node)
        rows = self._insert(aten.reshape.default, (rows, [-1, flow.merged.counts.after, math.prod(rest)]), node)
        rows = self._copied_rows(rows, flow.merged)
        sizes = [*([] if one_image else [-1]), flow.merged.counts.before, *rest]
        rows = self._insert(aten.reshape.default, (rows, sizes), node)
        return self._insert(aten.permute.default, (rows, [order.index(axis) for axis in range(len(order))]), node)

    def _copied_rows(self, rows: fx.Node, merged: Merged) -> fx.Node:
        """Of tokens (B, M, C) what they are copied back to, (B, N, C)."""
        before: Merged | None = merged
        while before is not None:
            rows = TokenCopyCall(rows, before.assignment).insert(self._gm, rows)
            before = before.before
        return rows

    def _written_again(self, node: fx.Node) -> fx.Node:
        """What a node computes of all tokens: once more, of copies."""
        args, kwargs = self._written[node]
        copies = {read: self._copied(read) for read in node.all_input_nodes if read in self._flows}
        args, kwargs = map_arg((args, kwargs), lambda read: copies.get(read, read))
        made = self._insert(node.target, args, node)
        made.kwargs = kwargs
        return made

    def _insert(self, target: Any, args: tuple[Any, ...], source: fx.Node) -> fx.Node:
        return insert_call(self._gm, target, args, source)

    # Merging

    def _merge(self, merging: Merging) -> None:
        join, attention = merging.stream.join, merging.attention
        key: Any = attention.args[1]
        flow, keys = self._flows.get(join), self._flows.get(key)
        before = flow.merged if flow is not None else None
        if (keys.merged if keys is not None else None) is not before:
            self.unfit[attention] = "its keys did not merge as the tokens that go on"
            return
        images, tokens, _ = shape_of(join)
        count = min(merging.wanted, most_merged(tokens, merging.protected))
        if count < 1:
            self.unfit[attention] = f"of {tokens} tokens none are left to merge"
            return
        with self._gm.graph.inserting_before(join.next):
            metric = heads_mean(self._gm, key, images, attention)
            assignment = TomeMatchCall(metric, count, merging.protected).insert(self._gm, attention)
            size = before.size if before is not None else self._ones(join)
            call = TokenMergeCall(join, size, assignment, tokens - count).insert(self._gm, attention)
            fewer, sizes = (self._insert(operator.getitem, (call, place), attention) for place in (0, 1))
        join.replace_all_uses_with(fewer, delete_user_cb=lambda user: user is not call)
        first = before.counts.before if before is not None else tokens
        counts = Counts(images, first, tokens - count, merging.protected)
        merged = Merged(merging, counts, assignment, sizes, before, call)
        self.merged.append(merged)
        written = flow.layout if flow is not None else rows_of(join)
        self._flows[fewer] = _Flow(written, merged)

    def _ones(self, join: fx.Node) -> fx.Node:
        images, tokens, _ = shape_of(join)
        return add_tensor(self._gm, "tokens.size", torch.ones(images, tokens), join)


def heads_mean(gm: fx.GraphModule, key: fx.Node, images: int, source: fx.Node) -> fx.Node:
    """Keys (B, N, D), the mean over heads, of keys (B, H, N, D), (B·H, N, D) or (B, N, D)."""
    *leading, tokens, width = shape_of(key)
    if leading == [images]:
        return key
    if len(leading) == 1:
        sizes = [images, leading[0] // images, tokens, width]
        key = insert_call(gm, aten.reshape.default, (key, sizes), source)
    return insert_call(gm, aten.mean.dim, (key, [1]), source)


def _fewer(shape: tuple[int, ...], layout: Layout | None, counts: Counts) -> tuple[int, ...]:
    """A shape for the tokens that are left."""
    if layout is None:
        return shape
    sizes = list(layout.shape)
    sizes[layout.tokens.axis] = counts.scaled(sizes[layout.tokens.axis])
    return tuple(sizes)
