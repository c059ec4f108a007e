"""``linear(x, W, b)`` -> ``haste::linear(x, W, b, residual, activation)``: a linear layer with an epilogue."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, finish, insert_call, is_call, is_constant, replace
from haste_compiler.ops.linear import LINEAR


def extract_linears(gm: fx.GraphModule) -> fx.GraphModule:
    """Write float32 linear layers with constant weights as ``haste::linear``."""
    for node in list(gm.graph.nodes):
        if not is_call(node, torch.ops.aten.linear.default) or node.meta["val"].dtype != torch.float32:
            continue
        x, weight, bias = (argument(node, i, name) for i, name in enumerate(("input", "weight", "bias")))
        if is_constant(weight) and weight.meta["val"].dim() == 2 and (bias is None or is_constant(bias)):
            with gm.graph.inserting_before(node):
                args = (x, weight, bias, None, "none")
                replace(node, insert_call(gm, LINEAR, args, node))
    return finish(gm)
