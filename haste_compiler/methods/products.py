"""Counting the multiply-adds of every operator of a graph, from the shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from haste_compiler.graph.nodes import CONVOLUTIONS
from haste_compiler.methods.layers import product_kind
from haste_compiler.methods.registry import counted_operators, product_operators
from haste_compiler.ops.attention import ATTENTION
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D
from haste_compiler.ops.linear import LINEAR

aten = torch.ops.aten

Shape = Sequence[int]


@dataclass(frozen=True)
class OperatorMacs:
    """The dense multiply-adds of one operator of a graph, or of all products of activations of one module.

    Attributes:
        layer: qualified name of the layer; of products of activations, such as attention's, their module's and
            ``matmul``.
        kind: "conv", "linear" or "matmul".
        macs: multiply-adds on the inputs that the graph was captured with, all of them together.
    """

    layer: str
    kind: str
    macs: int


def operator_macs(gm: fx.GraphModule) -> list[OperatorMacs]:
    """Count the multiply-adds of every operator of a graph that has any, from the shapes alone; nothing is computed.

    Args:
        gm: a graph that ``capture`` or a pass returned: its nodes hold their shapes.

    Returns:
        The operators in the order in which they run. They add up to ``dense_macs`` of the network. Products of
        activations of one module are one: attention is the same whether it is spelled out or not.
    """
    counted: dict[str, OperatorMacs] = {}
    for node in gm.graph.nodes:
        own = operator_macs_of(node)
        if own is not None:
            before = counted[own.layer].macs if own.layer in counted and own.kind == "matmul" else 0
            counted[own.layer] = replace(own, macs=before + own.macs)
    return list(counted.values())


def operator_macs_of(node: fx.Node) -> OperatorMacs | None:
    """Count the multiply-adds of one operator; None: it has none."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    macs = _node_macs(node)
    kind = _kind(node)
    return OperatorMacs(_layer(node, kind), kind, macs) if macs else None


def _node_macs(node: fx.Node) -> int:
    args: Any = map_arg(node.args, lambda value: value.meta.get("val"))
    kwargs: Any = map_arg(node.kwargs, lambda value: value.meta.get("val"))
    modes = {fake.fake_mode for fake in tree_leaves((args, kwargs)) if isinstance(fake, torch._subclasses.FakeTensor)}
    if len(modes) != 1:
        return 0
    # The counter goes inside: it must see the operators before the fake tensors answer for them.
    with torch.no_grad(), modes.pop(), operations_counter() as counter:
        node.target(*args, **kwargs)  # type: ignore[operator]
    return macs_counted(counter)


def _kind(node: fx.Node) -> str:
    target: Any = node.target
    if target in (*CONVOLUTIONS, CONV2D, CONV_TRANSPOSE2D) or target.overloadpacket in product_operators():
        return product_kind(node)
    return "linear" if target in (aten.linear.default, LINEAR) else "matmul"


def _layer(node: fx.Node, kind: str) -> str:
    layer = str(node.meta.get("layer") or "")
    if kind != "matmul":
        return layer or node.name
    return f"{layer}.{kind}" if layer else kind


def operations_counter() -> FlopCounterMode:
    """PyTorch's counter, which knows our operators too."""
    attention = (aten._scaled_dot_product_flash_attention_for_cpu, ATTENTION.overloadpacket)
    counted = {**dict.fromkeys(attention, attention_macs), **counted_operators()}
    own = {CONV2D.overloadpacket: 1, LINEAR.overloadpacket: 1, **product_operators()}
    return FlopCounterMode(
        display=False,
        custom_mapping={
            **{operator: partial(_product, place) for operator, place in own.items()},
            CONV_TRANSPOSE2D.overloadpacket: _transposed,
            **{operator: _operations(count) for operator, count in counted.items()},
        },
    )


def macs_counted(counter: FlopCounterMode) -> int:
    """The multiply-adds that a counter saw: two of its operations each."""
    return int(counter.get_total_flops()) // 2


def _product(place: int, *args: Any, out_shape: Shape, **named: Any) -> int:
    """Operations of a product with filters (K, ...), argument ``place``: each output reads one filter's worth.

    Of what returns several tensors the first is the product.
    """
    first: Any = out_shape[0] if isinstance(out_shape[0], Sequence) else out_shape
    return 2 * math.prod(first) * math.prod(args[place][1:])


def _transposed(x: Shape, weight: Shape, *rest: Any, out_shape: Shape, **named: Any) -> int:
    """Operations of a transposed convolution with filters (C, K / groups, kh, kw): each input meets its channel's."""
    return 2 * math.prod(x) * math.prod(weight[1:])


def attention_macs(query: Shape, key: Shape, value: Shape, *rest: Any, **named: Any) -> int:
    """Multiply-adds of attention: each query meets every key, and every value."""
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _operations(macs: Callable[..., int]) -> Callable[..., int]:
    def operations(*shapes: Any, out_shape: Any, **named: Any) -> int:
        return 2 * macs(*shapes, **named)

    return operations
