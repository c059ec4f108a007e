"""What is computed while compiling: calls that depend on constants only."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import add_tensor, get_tensor, is_call, is_constant, is_tensor, replace


def is_computable(node: fx.Node) -> bool:
    """Whether a call has the same tensor, or the same tensors, as its value whenever the network runs."""
    several = isinstance(node.meta.get("val"), list | tuple) and all(is_call(u, operator.getitem) for u in node.users)
    if not (is_tensor(node) or several) or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable:
        return False
    return all(is_constant(value) for value in node.all_input_nodes)


def compute(gm: fx.GraphModule, node: fx.Node) -> None:
    """Take a buffer, or several, instead of a call of which :func:`is_computable` is true."""
    assert callable(node.target)

    def load(value: fx.Node) -> Tensor:
        return get_tensor(gm, value)

    with torch.no_grad():
        value = node.target(*fx.map_arg(node.args, load), **fx.map_arg(node.kwargs, load))
    with gm.graph.inserting_before(node):
        if is_tensor(node):
            replace(node, add_tensor(gm, f"{node.name}_value", value.clone(), node))
            return
        for user in list(node.users):
            index: Any = user.args[1]
            replace(user, add_tensor(gm, f"{user.name}_value", value[index].clone(), user))
    gm.graph.erase_node(node)
