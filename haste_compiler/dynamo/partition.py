"""Which parts of a graph our compiler takes: convex, connected, with a convolution in each."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.codegen.machine import Machine
from haste_compiler.dynamo.support import CONVOLUTIONS, MOVEMENT, takes
from haste_compiler.graph.algorithms import alternations, components
from haste_compiler.graph.nodes import TRANSPOSED, argument, is_call
from haste_compiler.methods.registry import rules_for

aten = torch.ops.aten


@dataclass(frozen=True)
class Plan:
    """A graph cut into regions and the rest.

    Attributes:
        regions: for each region its nodes, in order.
        constants: nodes that depend on constants only; a region has its own copies of those that it reads.
        whole: whether a single region is all that there is.
    """

    regions: list[list[fx.Node]]
    constants: set[fx.Node]
    whole: bool


def find_regions(gm: fx.GraphModule, fixed: Iterable[fx.Node], least_macs: int, machines: Sequence[Machine]) -> Plan:
    """Find the parts of a traced graph that our compiler takes.

    A node's level says how often a path from the inputs to it changes between what we take and what we don't, at most:
    nodes of one level that we take form a convex set, and of each set the connected parts are the regions.

    Args:
        gm: what ``trace`` returned.
        fixed: placeholders that are parameters or buffers.
        least_macs: a region with fewer multiply-adds isn't worth its call.
        machines: what code may be made for; what a region may be made of, the first one's rules say.
    """
    nodes = list(gm.graph.nodes)
    constants = _constants(nodes, fixed)
    rules, devices = rules_for(machines[0]), {torch.device(name) for each in machines for name in each.torch_devices}
    calls = [node for node in nodes if node.op == "call_function" and node not in constants and _is_value(node)]
    taken = {node for node in calls if takes(node, constants, rules, devices)}
    level = alternations(calls, taken)
    by_level: dict[int, list[fx.Node]] = defaultdict(list)
    for node in calls:
        if node in taken:
            by_level[level[node]].append(node)
    regions = []
    for members in by_level.values():
        for part in components(members if len(members) == len(calls) else _trimmed(members)):
            if any(is_call(node, *CONVOLUTIONS) for node in part) and _macs(part) >= least_macs:
                regions.append(part)
    return Plan(regions, constants, len(regions) == 1 and len(regions[0]) == len(calls))


def _is_value(node: fx.Node) -> bool:
    """Whether a node's value is made of tensors, not of sizes."""
    value = node.meta.get("val")
    return isinstance(value, (Tensor, list, tuple)) or value is None


def _constants(nodes: Iterable[fx.Node], fixed: Iterable[fx.Node]) -> set[fx.Node]:
    constants = set(fixed)
    for node in nodes:
        if node.op == "call_function" and node.all_input_nodes and isinstance(node.target, torch._ops.OpOverload):
            seeded = torch.Tag.nondeterministic_seeded in node.target.tags
            if not seeded and all(source in constants for source in node.all_input_nodes):
                constants.add(node)
    return constants


def _trimmed(members: list[fx.Node]) -> list[fx.Node]:
    """Without what only moves values about where the set begins or ends: Inductor does that on its way."""
    inside = set(members)
    for order, neighbours in (
        (reversed(members), lambda node: node.users),
        (members, lambda node: node.all_input_nodes),
    ):
        for node in order:
            if is_call(node, *MOVEMENT) and inside.isdisjoint(neighbours(node)):
                inside.discard(node)
    for node in members:
        # What picks from a call of several results stays with the call.
        if is_call(node, operator.getitem) and node.args[0] in inside:
            inside.add(node)
    return [node for node in members if node in inside]


def _macs(nodes: Iterable[fx.Node]) -> int:
    """Multiply-adds of a region's convolutions, at the sizes that the graph was traced with."""
    total = 0
    for node in nodes:
        if is_call(node, *CONVOLUTIONS):
            weight = argument(node, 1, "weight").meta["val"]
            # Each output reads a filter (K, ...); of a transposed convolution each input meets one (C, ...).
            image = argument(node, 0, "input") if is_call(node, *TRANSPOSED) else node
            total += _hint(image.meta["val"].numel()) * _hint(weight.numel()) // _hint(weight.shape[0])
    return total


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
