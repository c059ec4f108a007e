"""Regions that change nothing become part of the graph around them: autocast that is off, gradients on or off."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import is_call

_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled


def inline_regions(gm: fx.GraphModule) -> None:
    """Inline every region of a graph that computes the same without what it sets."""
    for node in list(gm.graph.nodes):
        inner = _region(gm, node)
        if inner is not None:
            inline_regions(inner)
            _inline(gm, node, inner)
    gm.recompile()


def _region(gm: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """The graph of a region that sets nothing which matters; None if a node is no such region."""
    if is_call(node, _GRADIENTS):
        graph = node.args[1]
    elif is_call(node, _AUTOCAST) and _is_idle(node):
        graph = node.args[4]
    else:
        return None
    if not all(is_call(user, operator.getitem) for user in node.users):
        return None
    assert isinstance(graph, fx.Node)
    inner = gm.get_submodule(str(graph.target))
    return inner if isinstance(inner, fx.GraphModule) else None


def _is_idle(node: fx.Node) -> bool:
    """Whether autocast is off, or for devices that no tensor of the region is on."""
    device, _, enabled = node.args[:3]
    values = [value.meta.get("val") for value in node.all_input_nodes]
    return not enabled or all(value.device.type != device for value in values if isinstance(value, Tensor))


def _inline(gm: fx.GraphModule, node: fx.Node, inner: fx.GraphModule) -> None:
    given = node.args[5:] if is_call(node, _AUTOCAST) else node.args[2:]
    copies: dict[fx.Node, Any] = dict(zip(inner.graph.find_nodes(op="placeholder"), given, strict=True))
    with gm.graph.inserting_before(node):
        for each in inner.graph.nodes:
            if each.op == "call_function":
                copies[each] = gm.graph.node_copy(each, copies.__getitem__)
            elif each.op == "get_attr":
                # Graphs of other regions in it.
                name = f"{node.name}_{each.target}"
                gm.add_module(name, inner.get_submodule(str(each.target)))
                copies[each] = gm.graph.get_attr(name)
    results: Any = inner.graph.output_node().args[0]
    for user in list(node.users):
        user.replace_all_uses_with(copies[results[user.args[1]]])
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)
