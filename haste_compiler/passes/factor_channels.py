"""``conv(x + γ d x + β)`` -> ``conv'(x (1 + γ d))``: what scales and shifts channels before a 1×1 convolution, once.

The shift, a constant, goes into the bias; scales that are constants go into the filters. One factor for each channel is
left to multiply with: a global response norm reads its map once then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import (
    add_tensor,
    finish,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    layer_name,
    shape_of,
    sole_user,
)
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.passes.fold_batch_norm import per_channel

aten = torch.ops.aten


@dataclass(frozen=True)
class _Map:
    """``base * (constant + Σ coefficient * factor) + shift`` of each channel.

    Attributes:
        base: (N, C, H, W).
        constant, shift: float64, (C,).
        factors: (coefficient, factor): (C,) of float64, and a node (N, C, 1, 1).
        calls: how many calls compute it.
    """

    base: fx.Node
    constant: Tensor
    shift: Tensor
    factors: list[tuple[Tensor, fx.Node]] = field(default_factory=list)
    calls: int = 0


def factor_channels(gm: fx.GraphModule) -> fx.GraphModule:
    """Factor what maps the channels of the input of plain 1×1 convolutions, in more than one call."""
    for node in list(gm.graph.nodes):
        if is_call(node, CONV2D):
            call = ConvCall.of(node)
            plain = (
                call.x.meta["val"].dtype == torch.float32
                and shape_of(call.weight)[1:] == (shape_of(call.x)[1], 1, 1)
                and not any(call.padding)
            )
            constant = is_constant(call.weight) and (call.bias is None or is_constant(call.bias))
            if plain and constant and (found := _map(gm, call.x)).calls > 1:
                with gm.graph.inserting_before(node):
                    _factor(gm, node, call, found)
    return finish(gm)


def _factor(gm: fx.GraphModule, node: fx.Node, call: ConvCall, found: _Map) -> None:
    weight = get_tensor(gm, call.weight).double()
    bias = 0 if call.bias is None else get_tensor(gm, call.bias).double()
    filters, name = weight[:, :, 0, 0], layer_name(node)
    args: list[Any] = list(node.args)
    args[2] = add_tensor(gm, f"{name}.shifted_bias", (bias + filters @ found.shift).float(), call.weight)
    args[0] = found.base
    if found.factors:
        args[0] = insert_call(gm, aten.mul.Tensor, (found.base, _total(gm, found, node)), call.x)
    else:
        scaled = (weight * found.constant[:, None, None]).float()
        args[1] = add_tensor(gm, f"{name}.scaled_weight", scaled, call.weight)
    node.args = tuple(args)


def _total(gm: fx.GraphModule, found: _Map, node: fx.Node) -> fx.Node:
    """The sum of the factors, times what each is multiplied by, and of the constant."""
    total: Any = None

    def constant(value: Tensor) -> fx.Node:
        return add_tensor(gm, f"{layer_name(node)}.factor", value.float().reshape(1, -1, 1, 1), node)

    for coefficient, factor in found.factors:
        ones = bool((coefficient == 1).all())
        term = factor if ones else insert_call(gm, aten.mul.Tensor, (factor, constant(coefficient)), node)
        total = term if total is None else insert_call(gm, aten.add.Tensor, (total, term), node)
    if bool((found.constant == 0).all()):
        return total
    return insert_call(gm, aten.add.Tensor, (total, constant(found.constant)), node)


def _map(gm: fx.GraphModule, node: fx.Node) -> _Map:
    """A tensor (N, C, H, W) as a map of another's channels; of its own where it is none."""
    channels = shape_of(node)[1]
    ones, zeros = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    leaf = _Map(node, ones, zeros)
    if not is_call(node, aten.mul.Tensor, aten.add.Tensor) or node.kwargs or sole_user(node) is None:
        return leaf
    for side, other in (node.args[:2], node.args[1::-1]):
        if not is_tensor(side) or shape_of(side) != shape_of(node):
            continue
        found = None
        value = per_channel(gm, other, shape_of(node), 1)
        if value is not None:
            inner = _map(gm, side)
            shifted = replace(inner, shift=inner.shift + value)
            found = _times(inner, value) if is_call(node, aten.mul.Tensor) else shifted
        elif is_call(node, aten.mul.Tensor) and is_tensor(other) and shape_of(other)[1:] == (channels, 1, 1):
            found = _by_factor(_map(gm, side), other)
        elif is_call(node, aten.add.Tensor) and is_tensor(other) and shape_of(other) == shape_of(node):
            found = _sum(_map(gm, side), _map(gm, other))
        if found is not None:
            return replace(found, calls=found.calls + 1)
    return leaf


def _times(inner: _Map, value: Tensor) -> _Map:
    factors = [(coefficient * value, factor) for coefficient, factor in inner.factors]
    return replace(inner, constant=inner.constant * value, shift=inner.shift * value, factors=factors)


def _by_factor(inner: _Map, factor: fx.Node) -> _Map | None:
    """A map times a factor; None where that is no map of this kind."""
    if inner.factors or bool((inner.shift != 0).any()):
        return None
    return replace(inner, constant=torch.zeros_like(inner.constant), factors=[(inner.constant, factor)])


def _sum(first: _Map, second: _Map) -> _Map | None:
    """Two maps of the same tensor added; None if they aren't."""
    if first.base is not second.base:
        return None
    constant, shift = first.constant + second.constant, first.shift + second.shift
    return _Map(first.base, constant, shift, first.factors + second.factors, first.calls + second.calls)
