"""What is computed while compiling: calls that depend on constants only."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import add_tensor, get_tensor, is_constant, is_tensor, replace


def is_computable(node: fx.Node) -> bool:
    """Whether a call has the same tensor as its value whenever the network runs."""
    if not is_tensor(node) or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable:
        return False
    return all(is_constant(value) for value in node.all_input_nodes)


def compute(gm: fx.GraphModule, node: fx.Node) -> None:
    """Take a buffer instead of a call of which :func:`is_computable` is true."""
    assert callable(node.target)

    def load(value: fx.Node) -> Tensor:
        return get_tensor(gm, value)

    with torch.no_grad():
        value = node.target(*fx.map_arg(node.args, load), **fx.map_arg(node.kwargs, load))
    with gm.graph.inserting_before(node):
        constant = add_tensor(gm, f"{node.name}_value", value.clone(), node)
    replace(node, constant)
