"""Layers that PyTorch computes faster -> its own operators, marked so that they are left to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    LEFT_TO_PYTORCH,
    METHOD,
    finish,
    insert_call,
    is_call,
    is_tensor,
    layer_name,
    replace,
)
from haste_compiler.graph.views import VIEWS
from haste_compiler.ops.activation import OPERATORS, Activation
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.ops.linear import LINEAR, LinearCall

aten = torch.ops.aten


def can_be_handed_back(node: fx.Node) -> bool:
    """Whether a call is, or can be written as, calls of PyTorch's operators that compute something."""
    if node.op != "call_function" or not is_tensor(node) or METHOD in node.meta or is_call(node, *VIEWS):
        return False
    return is_call(node, CONV2D, LINEAR) or getattr(node.target, "namespace", None) == "aten"


def hand_back(gm: fx.GraphModule, layers: Collection[str]) -> fx.GraphModule:
    """Leave layers, by name, to PyTorch: convolutions and linear layers are spelled out again."""
    for node in list(gm.graph.nodes):
        if not can_be_handed_back(node) or layer_name(node) not in layers:
            continue
        with gm.graph.inserting_before(node):
            if is_call(node, CONV2D):
                replace(node, _convolution(gm, node))
            elif is_call(node, LINEAR):
                call = LinearCall.of(node)
                product = _left(gm, aten.linear.default, (call.x, call.weight, call.bias), node)
                replace(node, _epilogue(gm, product, call.residual, call.activation, node))
            else:
                node.meta[LEFT_TO_PYTORCH] = True
    return finish(gm)


def _convolution(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    call = ConvCall.of(node)
    (top, bottom, left, right), x = call.padding, call.x
    padding = [top, left]
    if (top, left) != (bottom, right):
        x = _left(gm, aten.constant_pad_nd.default, (x, [left, right, top, bottom]), node)
        padding = [0, 0]
    args = (x, call.weight, call.bias, list(call.stride), padding, list(call.dilation), call.groups)
    return _epilogue(gm, _left(gm, aten.conv2d.default, args, node), call.residual, call.activation, node)


def _epilogue(gm: fx.GraphModule, y: fx.Node, residual: fx.Node | None, activation: str, node: fx.Node) -> fx.Node:
    if residual is not None:
        y = _left(gm, aten.add.Tensor, (y, residual), node)
    name, numbers = Activation.parse(activation)
    return y if name == "none" else _left(gm, OPERATORS[name], (y, *numbers), node)


def _left(gm: fx.GraphModule, target: Any, args: tuple[Any, ...], node: fx.Node) -> fx.Node:
    made = insert_call(gm, target, args, node)
    made.meta[LEFT_TO_PYTORCH] = True
    return made
