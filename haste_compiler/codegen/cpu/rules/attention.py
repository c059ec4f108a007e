"""Attention on a CPU: products of activations, softmax, and both in a row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from tvm import relax

from haste_compiler.codegen.cpu.kernels.matmul import matmul_kernel
from haste_compiler.codegen.cpu.kernels.softmax import softmax_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.rules.layout import swapped
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float, same_shape
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, layer_name, shape_of

aten = torch.ops.aten


def softmax(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Over the axis whose values lie next to each other."""
    x, dim = args_of(node)[:2]
    if not is_float(x, node):
        return None
    shape = walk.shape(x)
    axis = dim % len(shape)
    if axis == 1 and walk.is_nhwc(x):
        return Value(_softmax_rows(walk, node, walk.nhwc(x), (shape[0], *shape[2:], shape[1])), nhwc=True)
    if axis == 0 or axis != len(shape) - 1:
        return None
    return Value(_softmax_rows(walk, node, walk.nchw(x), shape))


def matmul(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Of matrices that are stacked in the same way."""
    a, b = args_of(node)[:2]
    if not is_float(a, b) or not _same_leading(walk, a, b) or len(shape_of(a)) < 3:
        return None
    *leading, rows, inner = walk.shape(a)
    sizes = (rows, inner, shape_of(b)[-1])
    return Value(_multiplied(walk, node, (walk.nchw(a), walk.nchw(b)), tuple(leading), sizes))


def attention(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """``softmax(q kᵀ / sqrt(width) + mask) v``."""
    query, key, value = args_of(node)[:3]
    mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
    inputs = [query, key, value] if mask is None else [query, key, value, mask]
    if causal or not is_float(*inputs) or not _same_leading(walk, query, key, value):
        return None
    *leading, queries, width = walk.shape(query)
    keys, features = shape_of(value)[-2:]
    front, scale = tuple(leading), 1 / math.sqrt(width)
    if not front:
        return None
    transposed = swapped(walk, walk.nchw(key), (*front, keys, width))
    scores = _multiplied(walk, node, (walk.nchw(query), transposed), front, (queries, width, keys))
    if mask is not None:
        scaled = walk.emit(relax.op.multiply(scores, relax.const(scale, FLOAT32.dtype)))
        scores, scale = walk.emit(relax.op.add(scaled, walk.nchw(mask))), 1.0
    shares = _softmax_rows(walk, node, scores, (*front, queries, keys), scale)
    return Value(_multiplied(walk, node, (shares, walk.nchw(value)), front, (queries, keys, features)))


def _softmax_rows(walk: Walk[Cpu], node: fx.Node, x: Any, shape: tuple[Any, ...], scale: float = 1.0) -> Any:
    """``softmax(scale * x)`` over the last axis of a tensor of ``shape``."""
    return walk.launch(
        ("softmax", shape, scale),
        layer_name(node),
        [x],
        shape,
        lambda symbol: softmax_kernel(symbol, shape, scale, walk.machine.unit.lanes),
    )


def _same_leading(walk: Walk[Cpu], *nodes: fx.Node) -> bool:
    """Whether tensors agree in all sizes but the last two."""
    first, *others = (walk.sizes.shape(node)[:-2] for node in nodes)
    return all(same_shape(first, other) for other in others)


def _multiplied(
    walk: Walk[Cpu], node: fx.Node, matrices: tuple[Any, Any], leading: tuple[Any, ...], sizes: tuple[int, int, int]
) -> Any:
    rows, inner, columns = sizes
    return walk.launch(
        ("matmul", leading, sizes),
        layer_name(node),
        list(matrices),
        (*leading, rows, columns),
        lambda symbol: matmul_kernel(symbol, leading, rows, inner, columns, walk.machine.unit),
    )


RULES: Rules = {
    aten.softmax.int: softmax,
    aten.matmul.default: matmul,
    aten.bmm.default: matmul,
    aten.scaled_dot_product_attention.default: attention,
}
