"""Activations by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from tvm import tirx

from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import layer_name
from haste_compiler.ops.activation import ACTIVATIONS, activation_name

ActivationKernel = Callable[[Walk[Any], str, tuple[Any, ...], str], tirx.PrimFunc]
"""Makes a target's kernel (x, y) of a name, a shape and an activation."""


def activation_rules(kernel: ActivationKernel) -> Rules:
    """The rules for a target's kernel."""

    def rule(walk: Walk[Any], node: fx.Node) -> Value | None:
        activation, x = activation_name(node), args_of(node)[0]
        if activation is None:
            return None
        shape, source = walk.shape(node), walk.value(x)
        stored = (shape[0], *shape[2:], shape[1]) if source.nhwc else shape
        return Value(activate(walk, node, source.expr, (stored, activation), kernel), source.nhwc)

    return dict.fromkeys(ACTIVATIONS, rule)


def activate(
    walk: Walk[Any], node: fx.Node, x: Any, what: tuple[tuple[Any, ...], str], kernel: ActivationKernel
) -> Any:
    """Launch an activation of ``x``; ``what`` is its shape as stored, and the activation."""
    shape, activation = what
    return walk.launch(
        ("activation", shape, activation),
        layer_name(node),
        [x],
        shape,
        lambda symbol: kernel(walk, symbol, shape, activation),
    )
