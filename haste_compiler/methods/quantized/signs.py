"""Which tensors of a graph hold no negative number, whatever the input is."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, is_call
from haste_compiler.ops.activation import Activation, activation_name

aten = torch.ops.aten

_NONNEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid")
"""Activations that are none of a negative number, whatever their argument is."""

_KEEPS = (
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.expand.default,
    aten.repeat.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.dropout.default,
    aten.cat.default,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.pixel_shuffle.default,
)
"""Operators whose results are no negative numbers if none of the tensors they read has one."""


def is_nonnegative(node: Any) -> bool:
    """Whether a node's tensor can hold no negative number: activations make it so, and other operators keep it."""
    return _ask(node, {})


def _ask(node: Any, seen: dict[fx.Node, bool]) -> bool:
    if not isinstance(node, fx.Node):
        return isinstance(node, int | float) and node >= 0
    if node not in seen:
        seen[node] = _is_clipped(node) or (is_call(node, *_KEEPS) and all(_ask(each, seen) for each in _operands(node)))
    return seen[node]


def _operands(node: fx.Node) -> list[Any]:
    """The tensors, and the number of an addition or a product, that a call computes from."""
    if not is_call(node, aten.add.Tensor, aten.mul.Tensor):
        return list(node.all_input_nodes)
    return [node.args[0], node.args[1], argument(node, 2, "alpha", 1)]


def _is_clipped(node: fx.Node) -> bool:
    name = activation_name(node) or _epilogue(node)
    if name is None:
        return False
    activation = Activation.parse(name)
    return activation.name in _NONNEGATIVE or (activation.name == "clamp" and activation.numbers[0] >= 0)


def _epilogue(node: fx.Node) -> str | None:
    """The activation that a call of one of our operators ends with; None: it is another call."""
    names = [each.name for each in node.target._schema.arguments] if hasattr(node.target, "_schema") else []
    return str(argument(node, names.index("activation"), "activation")) if "activation" in names else None
