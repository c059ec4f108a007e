"""Layer and group normalisation on a CPU."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.group_norm import (
    factors_kernel,
    moments_kernel,
    normalise_kernel,
    parts_of,
)
from haste_compiler.codegen.cpu.kernels.layer_norm import layer_norm_kernel
from haste_compiler.codegen.cpu.kernels.plane_norm import plane_norm_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, layer_name, shape_of, sole_user
from haste_compiler.ops.activation import activation_name

aten = torch.ops.aten


def layer_norm(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Over the last axes, with weight and bias."""
    x, normalised, weight, bias = args_of(node)[:4]
    eps = argument(node, 4, "eps", 1e-5)
    if not is_float(x, weight, bias):
        return None
    shape, axes = walk.shape(x), len(normalised)
    y = walk.launch(
        ("layer_norm", shape, axes, eps),
        layer_name(node),
        [walk.nchw(tensor) for tensor in (x, weight, bias)],
        shape,
        lambda symbol: layer_norm_kernel(symbol, shape, axes, eps, walk.machine.unit.lanes),
    )
    return Value(y)


def group_norm(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Of images, with weight and bias; with the activation after it, if nothing else reads the norm."""
    x, groups, weight, bias = args_of(node)[:4]
    eps = argument(node, 4, "eps", 1e-5)
    if not is_float(x, weight, bias) or len(shape_of(x)) != 4:
        return None
    user = sole_user(node)
    activation = activation_name(user) if user is not None else None
    (batch, channels, height, width), layer = walk.shape(x), layer_name(node)
    pixels, lanes, source = height * width, walk.machine.unit.lanes, walk.nhwc(x)
    moments, factors = (batch, parts_of(pixels, channels), channels), (batch, channels)
    means, deviations = walk.launch_several(
        ("moments", batch, pixels, channels),
        layer,
        [walk.reshaped(source, (batch, pixels, channels))],
        [("means", moments, FLOAT32.dtype), ("deviations", moments, FLOAT32.dtype)],
        lambda symbol: moments_kernel(symbol, batch, pixels, channels, lanes),
    )
    centre, scale = walk.launch_several(
        ("group_norm_factors", batch, pixels, channels, groups, eps),
        layer,
        [walk.reshaped(source, (batch, pixels, channels)), means, deviations, walk.value(weight).expr],
        [("centre", factors, FLOAT32.dtype), ("scale", factors, FLOAT32.dtype)],
        lambda symbol: factors_kernel(symbol, batch, pixels, channels, groups, eps),
    )
    y = walk.launch(
        ("normalise", batch, pixels, channels, activation),
        layer,
        [walk.reshaped(source, (batch, pixels, channels)), centre, scale, walk.value(bias).expr],
        (batch, pixels, channels),
        lambda symbol: normalise_kernel(symbol, batch, pixels, channels, activation or "none", lanes),
    )
    value = Value(walk.reshaped(y, (batch, height, width, channels)), nhwc=True)
    if activation is not None and user is not None:
        walk.values[user] = value
    return value


def plane_norm(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """The 2-norm over height and width of images; their channels come last, as they are stored or written."""
    x, dims = args_of(node)[0], argument(node, 2, "dim")
    if argument(node, 1, "ord", 2) != 2 or argument(node, 4, "dtype") is not None or dims is None:
        return None
    if not is_float(x) or len(shape_of(x)) != 4:
        return None
    axes, nhwc = sorted(dim % 4 for dim in dims), walk.is_nhwc(x)
    if axes != ([2, 3] if nhwc else [1, 2]):
        return None
    shape, source = walk.shape(x), walk.nhwc(x) if nhwc else walk.nchw(x)
    pixels, channels = shape[axes[0]] * shape[axes[1]], shape[1 if nhwc else 3]
    y = walk.launch(
        ("plane_norm", shape[0], pixels, channels),
        layer_name(node),
        [walk.reshaped(source, (shape[0], pixels, channels))],
        (shape[0], channels),
        lambda symbol: plane_norm_kernel(symbol, shape[0], pixels, channels, walk.machine.unit.lanes),
    )
    return Value(walk.reshaped(y, walk.shape(node)))


RULES: Rules = {
    aten.layer_norm.default: layer_norm,
    aten.group_norm.default: group_norm,
    aten.linalg_vector_norm.default: plane_norm,
}
