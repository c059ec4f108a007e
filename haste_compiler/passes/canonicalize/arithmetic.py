"""Sums, products and quotients: operands of one dtype, no ``alpha``; ``silu`` by its name; small powers as products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    add_tensor,
    argument,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    replace,
)
from haste_compiler.passes.canonicalize.rewrite import Rewrites, call

aten = torch.ops.aten


def _arithmetic(gm: fx.GraphModule, node: fx.Node) -> None:
    """Operands take the result's dtype; ``a + alpha * b`` becomes an addition of a product."""
    dtype, alpha = node.meta["val"].dtype, node.kwargs.get("alpha", 1)
    operands = list(node.args[:2])
    if alpha != 1 and isinstance(alpha, (int, float)):
        operands[1] = _times(gm, node, operands[1], alpha)
    for position, operand in enumerate(operands):
        if is_tensor(operand) and operand.meta["val"].dtype != dtype:
            operands[position] = insert_call(gm, aten.to.dtype, (operand, dtype), node)
    if operands != list(node.args[:2]):
        node.args = (*operands, *node.args[2:])
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "alpha"}


def _mul(gm: fx.GraphModule, node: fx.Node) -> None:
    _arithmetic(gm, node)
    for x, gate in (node.args, node.args[::-1]):
        if is_call(gate, aten.sigmoid.default) and gate.args[0] is x:
            call(gm, node, aten.silu.default, x)
            return


def _true_divide(gm: fx.GraphModule, node: fx.Node) -> None:
    node.target = aten.div.Tensor
    _arithmetic(gm, node)


def _rsub(gm: fx.GraphModule, node: fx.Node) -> None:
    x, other = node.args[:2]
    alpha = argument(node, 2, "alpha", 1)
    if isinstance(other, fx.Node):
        call(gm, node, aten.sub.Tensor, other, x if alpha == 1 else _times(gm, node, x, alpha))
    else:
        call(gm, node, aten.add.Tensor, _times(gm, node, x, -alpha), other)


def _power(gm: fx.GraphModule, node: fx.Node) -> None:
    """Small powers as PyTorch computes them: by products and roots."""
    x, exponent = node.args
    if not isinstance(x, fx.Node) or x.meta["val"].dtype != torch.float32 or exponent not in _POWERS:
        return
    for operator in _POWERS[exponent]:
        operands = (x, node.args[0]) if operator is aten.mul.Tensor else (x,)
        x = insert_call(gm, operator, operands, node)
    replace(node, x)


_POWERS: Mapping[Any, Sequence[Any]] = {
    2: (aten.square.default,),
    3: (aten.square.default, aten.mul.Tensor),
    0.5: (aten.sqrt.default,),
    -0.5: (aten.rsqrt.default,),
    -1: (aten.reciprocal.default,),
}


def _times(gm: fx.GraphModule, node: fx.Node, operand: Any, factor: float) -> Any:
    if not isinstance(operand, fx.Node):
        return operand * factor
    if is_constant(operand):
        return add_tensor(gm, f"{node.name}_scaled", get_tensor(gm, operand) * factor, node)
    return insert_call(gm, aten.mul.Tensor, (operand, factor), node)


REWRITES: Rewrites = {
    aten.add.Tensor: _arithmetic,
    aten.sub.Tensor: _arithmetic,
    aten.mul.Tensor: _mul,
    aten.div.Tensor: _arithmetic,
    aten.true_divide.Tensor: _true_divide,
    aten.pow.Tensor_Scalar: _power,
    aten.rsub.Scalar: _rsub,
    aten.rsub.Tensor: _rsub,
}
