"""Taking regions out of a traced graph: what is left calls ``haste::region`` in their place."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.dynamo.partition import Plan
from haste_compiler.graph.algorithms import digraph, in_order, upstream

aten = torch.ops.aten


@dataclass(frozen=True)
class Cut:
    """A region by itself.

    Attributes:
        gm: its graph. Placeholders: tensors, then constants, then sizes; returns a tuple.
        tensors, weights, sizes: the nodes of the whole graph that they stand for; weights are placeholders there.
        outputs: the nodes of the whole graph that it computes for others.
    """

    gm: fx.GraphModule
    tensors: list[fx.Node]
    weights: list[fx.Node]
    sizes: list[fx.Node]
    outputs: list[fx.Node]


def cut(plan: Plan, region: Sequence[fx.Node]) -> Cut:
    """Copy a region into a graph of its own, with what it needs of the constants computed in it."""
    inside = set(region)
    nodes = [*_constants_of(region, plan.constants), *region]
    tensors: list[fx.Node] = []
    weights: list[fx.Node] = []
    sizes: list[fx.Node] = []
    copied = set(nodes)
    for source in dict.fromkeys(source for node in nodes for source in node.all_input_nodes):
        if source in copied:
            continue
        if source in plan.constants:
            weights.append(source)
        else:
            (tensors if isinstance(source.meta["val"], Tensor) else sizes).append(source)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for source in (*tensors, *weights, *sizes):
        copies[source] = graph.placeholder(source.name)
        copies[source].meta = dict(source.meta)
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    outputs = [node for node in region if any(user not in inside for user in node.users)]
    graph.output(tuple(copies[node] for node in outputs))
    return Cut(fx.GraphModule({}, graph), tensors, weights, sizes, outputs)


def _constants_of(region: Sequence[fx.Node], constants: set[fx.Node]) -> list[fx.Node]:
    """The calls on constants that a region depends on, in order."""
    calls = digraph(node for node in constants if node.op == "call_function")
    return upstream(calls, (source for node in region for source in node.all_input_nodes if source in calls))


def replace_regions(gm: fx.GraphModule, plan: Plan, cuts: Sequence[Cut], handles: Sequence[str]) -> fx.GraphModule:
    """The graph with a call of ``haste::region`` in place of each region; unused placeholders stay."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    by_first = {region[0]: (part, handle) for region, part, handle in zip(plan.regions, cuts, handles, strict=True)}
    for unit in in_order(plan.regions, list(gm.graph.nodes)):
        found = by_first.get(unit[0])
        if found is None:
            for node in unit:
                copies[node] = _copy(graph, node, copies)
            continue
        part, handle = found
        arguments: list[Any] = [[copies[node] for node in nodes] for nodes in (part.tensors, part.weights, part.sizes)]
        call = graph.call_function(torch.ops.haste.region.default, (*arguments, handle))
        for index, node in enumerate(part.outputs):
            copies[node] = graph.call_function(operator.getitem, (call, index))
            copies[node].meta = dict(node.meta)
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(gm, graph)


def _copy(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    copy = graph.node_copy(node, copies.__getitem__)
    if copy.target is aten.view.default:
        # Whether a tensor can be viewed depends on its layout, which a region's outputs may not share.
        copy.target = aten.reshape.default
    return copy
