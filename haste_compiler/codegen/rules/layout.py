"""Operators for which it doesn't matter how their tensors are laid out, or which only move values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import fx
from tvm import ir, relax

from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import dtype_name, is_float
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, is_constant, is_tensor, shape_of, unsupported
from haste_compiler.ops.affine import AFFINE, AffineCall
from haste_compiler.ops.channel_shuffle import CHANNEL_SHUFFLE, ShuffleCall

aten = torch.ops.aten

NHWC_AXIS = (0, 3, 1, 2)
"""Where each axis of (N, C, H, W) lies in NHWC."""

_BINARY = {
    aten.add.Tensor: relax.op.add,
    aten.sub.Tensor: relax.op.subtract,
    aten.mul.Tensor: relax.op.multiply,
    aten.div.Tensor: relax.op.divide,
}

Maps = tuple[fx.Node, fx.Node]
"""Scale and shift of every channel, (C,) each."""

Join = Callable[[Walk[Any], fx.Node, Sequence[fx.Node], Maps | None, str], Any]
"""Joins images along their channels, given the node, the parts, maps if there are any, and an activation; NHWC."""


def binary(walk: Walk[Any], node: fx.Node) -> Value | None:
    """Arithmetic on images that are NHWC, or broadcast against one."""
    left, right = args_of(node)[:2]
    if any(isinstance(side, fx.Node) and not is_tensor(side) for side in (left, right)):
        raise unsupported(node, "it computes with the batch's size")
    if len(shape_of(node)) != 4 or not (walk.is_nhwc(left) or walk.is_nhwc(right)):
        return None
    if argument(node, 2, "alpha", 1) != 1 or not all(_fits_nhwc(side) for side in (left, right)):
        return None
    dtype = dtype_name(node.meta["val"].dtype)
    sides = (_broadcast(walk, side, dtype) for side in (left, right))
    return Value(walk.emit(_BINARY[cast(Any, node.target)](*sides)), nhwc=True)


def _fits_nhwc(side: Any) -> bool:
    return not isinstance(side, fx.Node) or is_constant(side) or len(shape_of(side)) == 4


def _broadcast(walk: Walk[Any], side: Any, dtype: str) -> Any:
    """An operand that broadcasts against an NHWC tensor of a dtype."""
    if not isinstance(side, fx.Node):
        return relax.const(side, dtype)
    if is_constant(side):
        value = walk.constant(side)
        value = value.reshape((1,) * (4 - value.ndim) + value.shape)
        return walk.param(value.transpose(0, 2, 3, 1))
    return walk.nhwc(side)


def prelu(walk: Walk[Any], node: fx.Node) -> Value | None:
    """A slope below zero, one for all channels or one for each."""
    x, weight = args_of(node)
    if len(shape_of(x)) != 4 or not is_constant(weight):
        return None
    value, slopes = walk.nhwc(x), walk.param(walk.constant(weight).reshape(-1))
    below = walk.emit(relax.op.less(value, relax.const(0, FLOAT32.dtype)))
    return Value(walk.emit(relax.op.where(below, walk.emit(relax.op.multiply(value, slopes)), value)), nhwc=True)


def getitem(walk: Walk[Any], node: fx.Node) -> Any:
    """One of a call's results; of what only rules hand on, all of it."""
    source, index = args_of(node)
    value = walk.values[source]
    if not isinstance(value, Value):
        return value
    if not isinstance(value.expr.ty, ir.TupleType):
        raise unsupported(source, "TVM gives only its first result")
    return Value(walk.emit(relax.TupleGetItem(value.expr, index)))


def slice_(walk: Walk[Any], node: fx.Node) -> Value | None:
    """A slice of an NHWC tensor."""
    x, dim = args_of(node)[0], argument(node, 1, "dim", 0)
    if not walk.is_nhwc(x):
        return None
    axis, size = NHWC_AXIS[dim % 4], walk.shape(x)[dim % 4]
    if isinstance(size, DynamicBatch):
        return None
    bounds = slice(argument(node, 2, "start", None) or 0, argument(node, 3, "end", None), argument(node, 4, "step", 1))
    start, end, step = bounds.indices(size)
    sliced = relax.op.strided_slice(walk.value(x).expr, [axis], [start], [end], [step], assume_inbound=True)
    return Value(walk.emit(sliced), nhwc=True)


def select(walk: Walk[Any], node: fx.Node) -> Value | None:
    """One place along an axis whose size is fixed: a slice of one, without the axis."""
    x, dim, index = args_of(node)
    shape = walk.shape(x)
    size = shape[dim % len(shape)]
    if isinstance(size, DynamicBatch) or not isinstance(index, int):
        return None
    axis, start, nhwc = dim % len(shape), index % size, walk.is_nhwc(x)
    along = NHWC_AXIS[axis] if nhwc else axis
    source = walk.value(x).expr
    taken = walk.emit(relax.op.strided_slice(source, [along], [start], [start + 1], [1], assume_inbound=True))
    if not nhwc:
        return Value(walk.reshaped(taken, walk.shape(node)))
    left = [place for place in NHWC_AXIS if place != along]
    squeezed = walk.emit(relax.op.squeeze(taken, [along]))
    # Ranks of what is left, in the order of the node's own axes.
    order = [sorted(left).index(place) for place in left]
    return Value(squeezed if order == sorted(order) else walk.emit(relax.op.permute_dims(squeezed, order)))


def permute(walk: Walk[Any], node: fx.Node) -> Value | None:
    """Between NCHW and NHWC, which moves nothing, and of the last two axes."""
    x, order = args_of(node)
    order = [dim % len(order) for dim in order]
    if order == [0, 2, 3, 1]:
        return Value(walk.nhwc(x))
    if order == [0, 3, 1, 2] and not walk.is_nhwc(x):
        return Value(walk.value(x).expr, nhwc=True)
    *leading, last, before = range(len(order))
    if order == [*leading, before, last] and is_float(x):
        return Value(swapped(walk, walk.nchw(x), walk.shape(x)))
    return None


def swapped(walk: Walk[Any], x: Any, shape: tuple[Any, ...]) -> Any:
    """``x``, of ``shape``, with its last two axes swapped."""
    *leading, rows, columns = shape
    after = (*leading, columns, rows)
    if isinstance(rows, DynamicBatch) or (len(leading) > 1 and isinstance(leading[0], DynamicBatch)):
        axes = list(range(len(shape)))
        return walk.emit(relax.op.permute_dims(x, [*axes[:-2], axes[-1], axes[-2]]))
    images = leading[0] if leading and isinstance(leading[0], DynamicBatch) else math.prod(leading)
    return walk.launch(
        ("swap", shape),
        "transpose",
        [x],
        after,
        lambda name: walk.machine.transpose(name, images, rows, columns, (shape, after)),
    )


def reshape(walk: Walk[Any], node: fx.Node) -> Value | None:
    """Between (N, C, 1, 1) and (N, C), where alone the layout doesn't matter."""
    x, shape = args_of(node)[0], shape_of(args_of(node)[0])
    if walk.is_nhwc(x) and shape[2] * shape[3] == 1:
        return Value(walk.reshaped(walk.value(x).expr, walk.shape(node)))
    return None


def joining_rules(join: Join) -> Rules:
    """The rules for joins along channels, and for what follows in one pass, by a target's way to join."""

    def cat(walk: Walk[Any], node: fx.Node) -> Value | None:
        tensors, dim = args_of(node)[0], argument(node, 1, "dim", 0)
        if len(shape_of(node)) != 4 or not any(walk.is_nhwc(tensor) for tensor in tensors):
            return None
        if any(len(shape_of(tensor)) != 4 for tensor in tensors):
            return None
        axis = NHWC_AXIS[dim % 4]
        if axis == 3:
            return Value(join(walk, node, tensors, None, "none"), nhwc=True)
        return Value(walk.emit(relax.op.concat([walk.nhwc(tensor) for tensor in tensors], axis)), nhwc=True)

    def affine(walk: Walk[Any], node: fx.Node) -> Value:
        call = AffineCall.of(node)
        return Value(join(walk, node, call.parts, (call.scale, call.shift), call.activation), nhwc=True)

    return {aten.cat.default: cat, AFFINE: affine}


def channel_shuffle(walk: Walk[Any], node: fx.Node) -> Value:
    """A channel shuffle by TVM's operators."""
    call = ShuffleCall.of(node)
    parts = [walk.nhwc(part) for part in call.parts]
    n, _, h, w = walk.shape(node)
    channels = sum(shape_of(part)[1] for part in call.parts)
    x = parts[0] if len(parts) == 1 else walk.emit(relax.op.concat(parts, 3))
    split = walk.reshaped(x, (n, h, w, call.groups, channels // call.groups))
    whole = walk.reshaped(walk.emit(relax.op.permute_dims(split, [0, 1, 2, 4, 3])), (n, h, w, channels))
    kept = relax.op.strided_slice(whole, [3], [call.start], [call.end], [1], assume_inbound=True)
    return Value(walk.emit(kept), nhwc=True)


RULES: Rules = {
    CHANNEL_SHUFFLE: channel_shuffle,
    aten.select.int: select,
    aten.slice.Tensor: slice_,
    aten.permute.default: permute,
    aten.prelu.default: prelu,
    aten.reshape.default: reshape,
    operator.getitem: getitem,
    **dict.fromkeys(_BINARY, binary),
}
