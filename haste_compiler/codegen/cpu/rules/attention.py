"""Attention on a CPU: products of activations, softmax, and both in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.attention import Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.kernels.attention_products import FloatProducts, Products
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, AttentionTiling, choose_attention
from haste_compiler.codegen.cpu.kernels.matmul import matmul_kernel
from haste_compiler.codegen.cpu.kernels.softmax import softmax_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.shapes import same_shape
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, layer_name, shape_of
from haste_compiler.graph.views import View, contiguous_strides, written_as
from haste_compiler.ops.attention import ATTENTION, AttentionCall

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
    mask = argument(node, 3, "attn_mask")
    causal, given = argument(node, 5, "is_causal", False), node.kwargs.get("scale")
    return launch_attention(walk, node, [*args_of(node)[:3]], {"mask": mask}, given, causal, _in_float32(walk))


def ragged_attention(walk: Walk[Cpu], node: fx.Node) -> Value | fx.Node | None:
    """The same of matrices with fewer queries and keys than there is room for."""
    call = AttentionCall.of(node)
    tensors = [call.query, call.key, call.value]
    beside = {"mask": call.mask, "lengths": call.lengths, "query_lengths": call.query_lengths}
    return launch_attention(walk, node, tensors, beside, call.scale, call.causal, _in_float32(walk))


def _in_float32(walk: Walk[Cpu]) -> Callable[[AttentionSizes, AttentionTiling], Products]:
    return lambda sizes, tiling: FloatProducts(sizes, tiling, walk.machine.unit.lanes)


def launch_attention(
    walk: Walk[Cpu],
    node: fx.Node,
    tensors: list[fx.Node],
    beside: Mapping[str, fx.Node | None],
    scale: Any,
    causal: bool,
    make: Callable[[AttentionSizes, AttentionTiling], Products],
) -> Value | fx.Node | None:
    """Launch the kernel of an attention, or None where it can't be.

    Args:
        walk: the walk.
        node: whose value it is.
        tensors: query, key and value.
        beside: ``mask``, what is added to scores; ``lengths`` and ``query_lengths``, int32, how many keys and queries
            each matrix has. None, or left out: there is none.
        scale: of the scores; None: one over the root of a query's width.
        causal: query i sees keys 0 to i only.
        make: of sizes and the tiling for float32, how the products are computed.
    """
    query, key, value = tensors
    target = written_as(node)
    groups = _groups(walk, query, key, value)
    if target is None or not is_float(*tensors, *([beside["mask"]] if beside["mask"] else [])) or groups is None:
        return None
    keys, width, features = *shape_of(key)[-2:], shape_of(value)[-1]
    *leading, queries, _ = walk.shape(node)
    if not leading:
        return None
    target = with_rows(walk, node, target)
    out = Operand(walk.shape(target.base), target.strides)
    # A kernel knows the batch by the shape of what it writes.
    leading[0] = out.shape[0] if isinstance(leading[0], DynamicBatch) else leading[0]
    read, operands = [], {"out": out}
    for label, tensor, fits in (
        ("query", query, lambda *_: True),
        ("key", key, lambda row, column: 1 in (row, column)),
        ("value", value, lambda _, column: column == 1),
    ):
        memory, operands[label] = operand_of(walk, tensor, fits)
        read.append(memory)
    for label, repeated in beside.items():
        if repeated is not None:
            memory, operands[label] = _repeated(walk, repeated, len(leading) + 2 * (label == "mask"))
            read.append(memory)
    if groups > 1:
        operands = {label: _by_group(each, len(leading), groups, label) for label, each in operands.items()}
        leading[-1:] = [leading[-1] // groups, groups]
    sizes, places = AttentionSizes(tuple(leading), queries, keys, width, features), Operands(**operands)
    tiling = choose_attention(sizes, walk.machine.unit, walk.machine.threads)
    factor = 1 / math.sqrt(width) if scale is None else float(scale)
    products = make(sizes, tiling)
    result = walk.launch(
        ("attention", type(products).__name__, sizes, places, factor, products.tiling, causal),
        layer_name(node),
        read,
        out.shape,
        lambda symbol: attention_kernel(symbol, sizes, places, factor, products, causal=causal),
    )
    return written(walk, node, target, result)


def with_rows(walk: Walk[Cpu], node: fx.Node, target: View) -> View:
    """Where a kernel is to write the value of a node, rows without a gap: ``target`` if that will do."""
    dynamic = isinstance(walk.shape(node)[0], DynamicBatch)
    if target.strides[-1] != 1 or not is_float(target.base) or (dynamic and not _same_first(walk, node, target.base)):
        return View(node, contiguous_strides(shape_of(node)))
    return target


def written(walk: Walk[Cpu], node: fx.Node, target: View, result: Any) -> Value | fx.Node:
    """A node's value, whose kernel wrote ``target``; where that is another's, the other is known too."""
    if target.base is node:
        return Value(result)
    walk.values[target.base] = Value(result)
    return target.base


def _groups(walk: Walk[Cpu], query: fx.Node, key: fx.Node, value: fx.Node) -> int | None:
    """How many heads of queries share those of keys; None where tensors aren't stacked in the same way."""
    if not _same_leading(walk, key, value):
        return None
    if _same_leading(walk, query, key):
        return 1
    (*before, heads, _, _), (*others, fewer, _, _) = walk.sizes.shape(query), walk.sizes.shape(key)
    return shape_of(query)[-3] // shape_of(key)[-3] if same_shape(before, others) and fewer != heads else None


def _by_group(operand: Operand, rank: int, groups: int, label: str) -> Operand:
    """The last leading axis as two: heads of keys, and the heads of queries that share one."""
    head, rest = operand.strides[rank - 1], operand.strides[rank:]
    split = (head, 0) if label in ("key", "value") else (head * groups, head)
    return Operand(operand.shape, (*operand.strides[: rank - 1], *split, *rest), operand.offset)


def _same_first(walk: Walk[Cpu], *nodes: fx.Node) -> bool:
    """Whether two tensors are of the same batch."""
    first, second = (walk.sizes.shape(node)[:1] for node in nodes)
    return same_shape(first, second)


def operand_of(walk: Walk[Cpu], node: fx.Node, fits: Callable[[int, int], bool]) -> tuple[Any, Operand]:
    """A tensor where it lies, if the kernel takes the strides of its rows and columns; else a copy."""
    view = walk.view(node)
    if view is None or not is_float(view.base) or not fits(*view.strides[-2:]):
        return walk.nchw(node), Operand(walk.shape(node), contiguous_strides(shape_of(node)))
    return walk.value(view.base).expr, Operand(walk.stored_shape(view.base), view.strides, view.offset)


def _repeated(walk: Walk[Cpu], tensor: fx.Node, rank: int) -> tuple[Any, Operand]:
    """A tensor along whose axes of one element everything else is repeated."""
    sizes = shape_of(tensor)
    strides = [0 if size == 1 else stride for size, stride in zip(sizes, contiguous_strides(sizes), strict=True)]
    return walk.nchw(tensor), Operand(walk.shape(tensor), (*[0] * (rank - len(sizes)), *strides))


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
    ATTENTION: ragged_attention,
}
