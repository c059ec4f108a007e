"""``x * (1 + erf(x / sqrt(2))) * 0.5``, as exporters spell it out, its factors in any order -> ``gelu(x)``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    finish,
    insert_call,
    is_call,
    is_tensor,
    number_of,
    replace,
    sole_user,
)

aten = torch.ops.aten

_QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, *_QUOTIENTS)

_NEAR = 1e-6
"""How far exporters' constants may be from what they stand for."""


def fuse_gelu(gm: fx.GraphModule) -> fx.GraphModule:
    """Write GELUs that are spelled out as the one operator that they are, of float32 tensors."""
    for node in list(gm.graph.nodes):
        if is_call(node, *_PRODUCTS) and node.users:
            with gm.graph.inserting_before(node):
                _gelu(gm, node)
    return finish(gm)


def _gelu(gm: fx.GraphModule, node: fx.Node) -> None:
    factors, number = _factors(gm, node, 1.0)
    tails = [factor for factor in factors if _argument(gm, factor) is not None]
    if len(factors) != 2 or len(tails) != 1 or not _is_near(number, 0.5) or node.meta["val"].dtype != torch.float32:
        return
    x = _argument(gm, tails[0])
    if x in factors and x is not tails[0] and is_tensor(x) and x.meta["val"].shape == node.meta["val"].shape:
        replace(node, insert_call(gm, aten.gelu.default, (x,), node))


def _factors(gm: fx.GraphModule, node: fx.Node, number: float) -> tuple[list[fx.Node], float]:
    """The tensors that a product multiplies, and its numbers' product."""
    if not is_call(node, *_PRODUCTS) or len(node.args) != 2:
        return [node], number
    found: list[fx.Node] = []
    for place, side in enumerate(node.args):
        value = number_of(gm, side)
        divides = place == 1 and is_call(node, *_QUOTIENTS)
        if value is not None:
            number = number / value if divides and value else number * value
        elif isinstance(side, fx.Node) and not divides and is_call(side, aten.mul.Tensor) and sole_user(side) is node:
            inner, number = _factors(gm, side, number)
            found += inner
        elif isinstance(side, fx.Node) and not divides:
            found.append(side)
        else:
            return [node], math.nan
    return found, number


def _argument(gm: fx.GraphModule, node: Any) -> fx.Node | None:
    """``x`` of ``1 + erf(x / sqrt(2))`` that nobody else reads; None for anything else."""
    if not is_call(node, aten.add.Tensor, aten.add.Scalar) or sole_user(node) is None or len(node.args) != 2:
        return None
    for side, other in (node.args, node.args[::-1]):
        one = number_of(gm, other)
        if is_call(side, aten.erf.default) and one is not None and _is_near(one, 1):
            inner: Any = side.args[0]
            factors, number = _factors(gm, inner, 1.0)
            if len(factors) == 1 and _is_near(number, math.sqrt(0.5)):
                return factors[0]
    return None


def _is_near(number: float, meant: float) -> bool:
    """Whether a number is what it stands for, as near as exporters write it; NaN is near nothing."""
    return abs(number - meant) < _NEAR
