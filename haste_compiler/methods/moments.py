"""Mean and variance of every channel of a network's values, told by its batch norms: nothing is run.

A batch norm with shift β and scale γ returned values of mean β and standard deviation |γ| on the images that it was
trained on. What follows it is taken to be normally distributed, and summands to be independent (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, has this for ReLU).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import argument, is_call, is_tensor, shape_of
from haste_compiler.ops.activation import activation_name, apply_activation
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.ops.linear import LINEAR, LinearCall
from haste_compiler.passes.fold_batch_norm import MOMENTS

aten = torch.ops.aten

Moments = tuple[Tensor, Tensor]
"""Mean and variance of each channel, float64, (C,)."""

_POINTS = torch.linspace(-6, 6, 241, dtype=torch.float64)
_DENSITY = torch.softmax(-_POINTS.square() / 2, 0)
_AVERAGES = (aten.mean.dim, aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default)
_VIEWS = (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.squeeze.dims, aten.squeeze.dim)


def channel_moments(gm: fx.GraphModule) -> dict[fx.Node, Moments]:
    """Tell the moments of those nodes of which the batch norms before them tell any.

    Args:
        gm: a graph after the passes, before any method's rewrite.
    """
    found: dict[fx.Node, Moments] = {}
    for node in gm.graph.nodes:
        moments = _moments(node, found)
        if moments is not None and moments[0].isfinite().all() and moments[1].isfinite().all():
            found[node] = moments
    return found


def _moments(node: fx.Node, found: dict[fx.Node, Moments]) -> Moments | None:
    if is_call(node, CONV2D, LINEAR):
        return _of_layer(ConvCall.of(node) if node.target is CONV2D else LinearCall.of(node), found)
    if node.op != "call_function" or not is_tensor(node):
        return None
    if is_call(node, aten.cat.default) and argument(node, 1, "dim", 0) == 1:
        parts = [found.get(part) for part in argument(node, 0, "tensors")]
        known = [part for part in parts if part is not None]
        return _joined(known) if len(known) == len(parts) else None
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source not in found:
        return None
    mean, variance = found[source]
    name = activation_name(node)
    if name is not None:
        return _activated((mean, variance), name)
    if is_call(node, aten.add.Tensor) and not node.kwargs:
        summand = node.args[1]
        if not isinstance(summand, fx.Node) or summand not in found or shape_of(summand) != shape_of(source):
            return None
        return mean + found[summand][0], variance + found[summand][1]
    if is_call(node, *_AVERAGES) and _channels(node) == _channels(source) == len(mean):
        return (mean, torch.zeros_like(variance)) if _is_over_pixels(node) else None
    if is_call(node, *_VIEWS) and math.prod(shape_of(source)[2:]) == 1 and shape_of(node)[:2] == shape_of(source)[:2]:
        return mean, variance
    return None


def _of_layer(call: ConvCall | LinearCall, found: dict[fx.Node, Moments]) -> Moments | None:
    own = None if call.bias is None else call.bias.meta.get(MOMENTS)
    if own is None:
        return None
    mean, variance = own
    if call.residual is not None:
        other = found.get(call.residual)
        if other is None or len(other[0]) != len(mean):
            return None
        mean, variance = mean + other[0], variance + other[1]
    return _activated((mean, variance), call.activation)


def _activated(moments: Moments, activation: str) -> Moments:
    """The moments of an activation of normally distributed values."""
    if activation == "none":
        return moments
    mean, variance = moments
    values = apply_activation(mean[:, None] + variance.sqrt()[:, None] * _POINTS, activation)
    after = values @ _DENSITY
    return after, (values - after[:, None]).square() @ _DENSITY


def _joined(parts: list[Moments]) -> Moments:
    return torch.cat([mean for mean, _ in parts]), torch.cat([variance for _, variance in parts])


def _channels(node: fx.Node) -> int:
    shape = shape_of(node)
    return shape[1] if len(shape) > 1 else 0


def _is_over_pixels(node: fx.Node) -> bool:
    """Whether a mean goes over an image's rows and columns alone."""
    if not is_call(node, aten.mean.dim):
        return len(shape_of(node)) == 4
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = len(shape_of(source))
    return rank == 4 and {axis % rank for axis in argument(node, 1, "dim")} == {2, 3}
