"""Counting the multiply-adds of a dense network, for each layer and in all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.graph.nodes import CONVOLUTIONS
from haste_compiler.methods.layers import product_kind
from haste_compiler.methods.registry import product_operators
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D
from haste_compiler.ops.linear import LINEAR
from haste_compiler.validation.running import fresh_copy

aten = torch.ops.aten

Shape = Sequence[int]


@dataclass(frozen=True)
class OperatorMacs:
    """The dense multiply-adds of one operator of a graph.

    Attributes:
        layer: qualified name of the layer; of another operator, its module's name and the node's.
        kind: "conv", "linear" or "matmul".
        macs: multiply-adds on the inputs that the graph was captured with, all of them together.
    """

    layer: str
    kind: str
    macs: int


def dense_macs(model: nn.Module, inputs: Sequence[Any]) -> int:
    """Count the multiply-adds of a network by running it once.

    Half of what ``torch.utils.flop_counter.FlopCounterMode`` counts (a multiply-add is two of its operations):
    convolutions and matrix products, not element-wise work, pooling or normalisation. A method's layer counts as the
    dense convolution that it replaces; attention on the CPU, which PyTorch's counter leaves out, is counted.

    Args:
        model: any module, or a graph of the passes; evaluated in evaluation mode, and left as it was.
        inputs: its positional arguments; left as they are.
    """
    with evaluation_mode(model), torch.no_grad(), _counter() as counter:
        model(*fresh_copy(tuple(inputs)))
    return _macs(counter)


def operator_macs(gm: fx.GraphModule) -> list[OperatorMacs]:
    """Count the multiply-adds of every operator of a graph that has any, from the shapes alone; nothing is computed.

    Args:
        gm: a graph that ``capture`` or a pass returned: its nodes hold their shapes.

    Returns:
        The operators in the order in which they run. They add up to ``dense_macs`` of the network.
    """
    counted = []
    for node in gm.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            macs = _node_macs(node)
            if macs:
                kind = _kind(node)
                counted.append(OperatorMacs(_layer(node, kind), kind, macs))
    return counted


def _node_macs(node: fx.Node) -> int:
    args: Any = map_arg(node.args, lambda value: value.meta.get("val"))
    kwargs: Any = map_arg(node.kwargs, lambda value: value.meta.get("val"))
    modes = {fake.fake_mode for fake in tree_leaves((args, kwargs)) if isinstance(fake, torch._subclasses.FakeTensor)}
    if len(modes) != 1:
        return 0
    # The counter goes inside: it must see the operators before the fake tensors answer for them.
    with torch.no_grad(), modes.pop(), _counter() as counter:
        node.target(*args, **kwargs)  # type: ignore[operator]
    return _macs(counter)


def _kind(node: fx.Node) -> str:
    target: Any = node.target
    if target in (*CONVOLUTIONS, CONV2D, CONV_TRANSPOSE2D) or target.overloadpacket in product_operators():
        return product_kind(node)
    return "linear" if target in (aten.linear.default, LINEAR) else "matmul"


def _layer(node: fx.Node, kind: str) -> str:
    layer = str(node.meta.get("layer") or "")
    if kind != "matmul":
        return layer or node.name
    # Several products of one module share its name.
    return f"{layer}.{node.name}" if layer else node.name


def _counter() -> FlopCounterMode:
    own = {CONV2D.overloadpacket: 1, LINEAR.overloadpacket: 1, **product_operators()}
    return FlopCounterMode(
        display=False,
        custom_mapping={
            **{operator: partial(_product, place) for operator, place in own.items()},
            CONV_TRANSPOSE2D.overloadpacket: _transposed,
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        },
    )


def _macs(counter: FlopCounterMode) -> int:
    return int(counter.get_total_flops()) // 2


def _product(place: int, *args: Any, out_shape: Shape, **named: Any) -> int:
    """Operations of a product with filters (K, ...), argument ``place``: each output reads one filter's worth."""
    return 2 * math.prod(out_shape) * math.prod(args[place][1:])


def _transposed(x: Shape, weight: Shape, *rest: Any, out_shape: Shape, **named: Any) -> int:
    """Operations of a transposed convolution with filters (C, K / groups, kh, kw): each input meets its channel's."""
    return 2 * math.prod(x) * math.prod(weight[1:])


def _attention(query: Shape, key: Shape, value: Shape, *rest: Any, out_shape: Any, **named: Any) -> int:
    return int(sdpa_flop_count(query, key, value))
