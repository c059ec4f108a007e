"""Norms: batch norm for given statistics; group norm and layer norm with a weight and a bias for those of the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import add_tensor, argument, shape_of
from haste_compiler.passes.canonicalize.rewrite import Rewrites, call, call_for_first, source_of

aten = torch.ops.aten


def _native_batch_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    x, weight, bias, mean, var, momentum, eps = node.args
    call_for_first(gm, node, aten.batch_norm.default, x, weight, bias, mean, var, False, momentum, eps, False)


def _instance_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    """Over each channel by itself: a group norm of groups of one; with given statistics a batch norm."""
    _, weight, bias, mean, var, by_input, momentum, eps, _ = node.args
    x = source_of(node)
    if not by_input:
        call(gm, node, aten.batch_norm.default, x, weight, bias, mean, var, False, momentum, eps, False)
        return
    channels = shape_of(x)[1]
    affine = _affine(gm, node, weight, bias, (channels,))
    call(gm, node, aten.group_norm.default, x, channels, *affine, eps, False)


def _group_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    x, groups = source_of(node), node.args[1]
    weight, bias, eps = argument(node, 2, "weight"), argument(node, 3, "bias"), argument(node, 4, "eps", 1e-5)
    if weight is None or bias is None:
        affine = _affine(gm, node, weight, bias, (shape_of(x)[1],))
        call(gm, node, aten.group_norm.default, x, groups, *affine, eps, False)


def _layer_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    x, shape = source_of(node), argument(node, 1, "normalized_shape")
    weight, bias, eps = argument(node, 2, "weight"), argument(node, 3, "bias"), argument(node, 4, "eps", 1e-5)
    if weight is None or bias is None:
        affine = _affine(gm, node, weight, bias, tuple(shape))
        call(gm, node, aten.layer_norm.default, x, shape, *affine, eps, False)


def _affine(gm: fx.GraphModule, node: fx.Node, weight: Any, bias: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Weight and bias of a norm, ones and zeros where it has none."""
    dtype = node.meta["val"].dtype
    if weight is None:
        weight = add_tensor(gm, f"{node.name}_ones", torch.ones(shape, dtype=dtype), node)
    if bias is None:
        bias = add_tensor(gm, f"{node.name}_zeros", torch.zeros(shape, dtype=dtype), node)
    return weight, bias


REWRITES: Rewrites = {
    aten._native_batch_norm_legit_no_training.default: _native_batch_norm,
    aten.instance_norm.default: _instance_norm,
    aten.group_norm.default: _group_norm,
    aten.layer_norm.default: _layer_norm,
}
