"""``linear(x, W, b)`` -> ``haste::linear(x, W, b, residual, activation)``: a linear layer with an epilogue."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from haste_compiler.haste.activation import apply_activation
from haste_compiler.passes.graph import argument, finish, insert_call, is_call, is_constant, replace


@torch.library.custom_op("haste::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    """``activation(x @ weight.T + bias + residual)``.

    Args:
        x: (..., C).
        weight: (K, C).
        bias: (K,).
        residual: (..., K).
        activation: as :func:`haste_compiler.haste.activation.apply_activation` names it.

    Returns:
        (..., K).
    """
    y = F.linear(x, weight, bias)
    return apply_activation(y if residual is None else y + residual, activation)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def extract_linears(gm: fx.GraphModule) -> fx.GraphModule:
    """Write float32 linear layers with constant weights as ``haste::linear``."""
    for node in list(gm.graph.nodes):
        if not is_call(node, torch.ops.aten.linear.default) or node.meta["val"].dtype != torch.float32:
            continue
        x, weight, bias = (argument(node, i, name) for i, name in enumerate(("input", "weight", "bias")))
        if is_constant(weight) and weight.meta["val"].dim() == 2 and (bias is None or is_constant(bias)):
            with gm.graph.inserting_before(node):
                args = (x, weight, bias, None, "none")
                replace(node, insert_call(gm, torch.ops.haste.linear.default, args, node))
    return finish(gm)
