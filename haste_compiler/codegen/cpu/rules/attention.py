"""Attention on a CPU: products of activations, softmax, and both in a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.attention import AttentionSizes, Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.kernels.matmul import matmul_kernel
from haste_compiler.codegen.cpu.kernels.softmax import softmax_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float, same_shape
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, layer_name, shape_of
from haste_compiler.graph.views import View, contiguous_strides, written_as

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


def attention(walk: Walk[Cpu], node: fx.Node) -> Value | fx.Node | None:
    """``softmax(scale * query @ keyᵀ + mask) @ value``, of tensors where they lie; written as it is read next."""
    query, key, value = args_of(node)[:3]
    mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
    inputs = [query, key, value] if mask is None else [query, key, value, mask]
    target = written_as(node)
    if causal or target is None or not is_float(*inputs) or not _same_leading(walk, query, key, value):
        return None
    keys, width, features = *shape_of(key)[-2:], shape_of(value)[-1]
    *leading, queries, _ = walk.shape(node)
    if not leading:
        return None
    dynamic = isinstance(leading[0], DynamicBatch)
    if target.strides[-1] != 1 or not is_float(target.base) or (dynamic and not _same_first(walk, node, target.base)):
        target = View(node, contiguous_strides(shape_of(node)))
    out = Operand(walk.shape(target.base), target.strides)
    # A kernel knows the batch by the shape of what it writes.
    leading[0] = out.shape[0] if dynamic else leading[0]
    (q, query_at), (k, key_at), (v, value_at) = (
        _operand(walk, query, lambda *_: True),
        _operand(walk, key, lambda row, column: 1 in (row, column)),
        _operand(walk, value, lambda _, column: column == 1),
    )
    masks, mask_at = ([], None) if mask is None else _repeated(walk, mask, len(leading) + 2)
    operands = Operands(query_at, key_at, value_at, mask_at, out)
    sizes = AttentionSizes(tuple(leading), queries, keys, width, features)
    given: Any = node.kwargs.get("scale")
    scale = 1 / math.sqrt(width) if given is None else float(given)
    result = walk.launch(
        ("attention", sizes, operands, scale),
        layer_name(node),
        [q, k, v, *masks],
        out.shape,
        lambda symbol: attention_kernel(symbol, sizes, operands, scale, walk.machine.unit),
    )
    if target.base is node:
        return Value(result)
    walk.values[target.base] = Value(result)
    return target.base


def _same_first(walk: Walk[Cpu], *nodes: fx.Node) -> bool:
    """Whether two tensors are of the same batch."""
    first, second = (walk.sizes.shape(node)[:1] for node in nodes)
    return same_shape(first, second)


def _operand(walk: Walk[Cpu], node: fx.Node, fits: Callable[[int, int], bool]) -> tuple[Any, Operand]:
    """A tensor where it lies, if the kernel takes the strides of its rows and columns; else a copy."""
    view = walk.view(node)
    if view is None or not is_float(view.base) or not fits(*view.strides[-2:]):
        return walk.nchw(node), Operand(walk.shape(node), contiguous_strides(shape_of(node)))
    return walk.value(view.base).expr, Operand(walk.stored_shape(view.base), view.strides, view.offset)


def _repeated(walk: Walk[Cpu], mask: fx.Node, rank: int) -> tuple[list[Any], Operand]:
    """A mask, along whose axes of one element everything else is repeated."""
    sizes = shape_of(mask)
    strides = [0 if size == 1 else stride for size, stride in zip(sizes, contiguous_strides(sizes), strict=True)]
    return [walk.nchw(mask)], Operand(walk.shape(mask), (*[0] * (rank - len(sizes)), *strides))


def _softmax_rows(walk: Walk[Cpu], node: fx.Node, x: Any, shape: tuple[Any, ...]) -> Any:
    """``softmax(x)`` over the last axis of a tensor of ``shape``."""
    return walk.launch(
        ("softmax", shape),
        layer_name(node),
        [x],
        shape,
        lambda symbol: softmax_kernel(symbol, shape, walk.machine.unit.lanes),
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
