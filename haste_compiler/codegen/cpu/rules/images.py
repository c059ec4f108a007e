"""Images on a CPU: pooling, activations, joins and shuffles of channels, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.axis_mean import axis_mean_kernel
from haste_compiler.codegen.cpu.kernels.channel_shuffle import channel_shuffle_kernel
from haste_compiler.codegen.cpu.kernels.concatenation import concatenation_kernel
from haste_compiler.codegen.cpu.kernels.elementwise import activation_kernel
from haste_compiler.codegen.cpu.kernels.gather import gather_kernel
from haste_compiler.codegen.cpu.kernels.pooling import pooling_kernel
from haste_compiler.codegen.cpu.kernels.resize import pack_positions, resize_kernel
from haste_compiler.codegen.cpu.kernels.row_mean import row_mean_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.attention import operand_of
from haste_compiler.codegen.cpu.rules.views import LARGE
from haste_compiler.codegen.rules import layout
from haste_compiler.codegen.rules.activations import activation_rules
from haste_compiler.codegen.rules.layout import Maps, joining_rules
from haste_compiler.codegen.rules.pooling import pooling_rules
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, is_call, layer_name, shape_of
from haste_compiler.graph.resizing import axis_map, on_axis
from haste_compiler.ops.channel_shuffle import CHANNEL_SHUFFLE, ShuffleCall

aten = torch.ops.aten

_LONGEST_MEAN = 1 << 16
"""Values of a row whose sum is as near as PyTorch's, which adds parts of a longer one by pairs."""


def join(walk: Walk[Cpu], node: fx.Node, parts: Sequence[fx.Node], maps: Maps | None, activation: str) -> Any:
    """Join images along their channels, with the maps and the activation after it, in one pass."""
    channels = [shape_of(part)[1] for part in parts]
    sources = [walk.nhwc(part) for part in parts]
    tables = [] if maps is None else [walk.value(each).expr for each in maps]
    batch, total, height, width = walk.shape(node)
    return walk.launch(
        ("concatenation", batch, height, width, *channels, bool(tables), activation),
        layer_name(node),
        [*sources, *tables],
        (batch, height, width, total),
        lambda symbol: concatenation_kernel(
            symbol,
            batch,
            (height, width),
            channels,
            walk.machine.unit.lanes,
            affine=bool(tables),
            activation=activation,
        ),
    )


_JOINS = joining_rules(join)


def cat(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Join images along their channels, and other tensors along any axis but the first: rows one behind the other."""
    images = _JOINS[aten.cat.default](walk, node)
    if images is not None:
        return cast(Value, images)
    parts, axis = args_of(node)[0], argument(node, 1, "dim", 0) % len(shape_of(node))
    if axis == 0 or not is_float(*parts) or math.prod(shape_of(node)) < LARGE:
        return None
    batch, *shape = walk.shape(node)
    rows, columns = math.prod(shape[: axis - 1]), [math.prod(shape_of(part)[axis:]) for part in parts]
    sources = [
        walk.reshaped(walk.nchw(part), (walk.shape(part)[0], rows, 1, count))
        for part, count in zip(parts, columns, strict=True)
    ]
    joined = walk.launch(
        ("concatenation", batch, rows, 1, *columns, False, "none"),
        layer_name(node),
        sources,
        (batch, rows, 1, sum(columns)),
        lambda symbol: concatenation_kernel(symbol, batch, (rows, 1), columns, walk.machine.unit.lanes),
    )
    return Value(walk.reshaped(joined, walk.shape(node)))


def channel_shuffle(walk: Walk[Cpu], node: fx.Node) -> Value:
    """A channel shuffle in one pass; of other than float32 by TVM's operators."""
    if node.meta["val"].dtype != torch.float32 or 0 in shape_of(node):
        return layout.channel_shuffle(walk, node)
    call = ShuffleCall.of(node)
    parts = [walk.nhwc(part) for part in call.parts]
    channels, kept = tuple(shape_of(part)[1] for part in call.parts), (call.start, call.end)
    batch, count, height, width = walk.shape(node)
    y = walk.launch(
        ("channel_shuffle", batch, height, width, channels, call.groups, *kept),
        layer_name(node),
        parts,
        (batch, height, width, count),
        lambda symbol: channel_shuffle_kernel(
            symbol, batch, (height, width), channels, call.groups, kept, walk.machine.unit.lanes
        ),
    )
    return Value(y, nhwc=True)


def resize(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Bilinear resizing."""
    x = args_of(node)[0]
    if not is_float(x):
        return None
    batch, channels, *before = walk.shape(x)
    sizes = (before[0], before[1]), (shape_of(node)[2], shape_of(node)[3])
    tables = [table for axis in (0, 1) for table in pack_positions(axis_map(node, axis).numpy())]
    y = walk.launch(
        ("resize", batch, channels, sizes),
        layer_name(node),
        [walk.nhwc(x), *map(walk.param, tables)],
        (batch, *sizes[1], channels),
        lambda symbol: resize_kernel(symbol, batch, *sizes, channels, walk.machine.unit.lanes),
    )
    return Value(y, nhwc=True)


Picks = tuple[Sequence[NDArray[np.int32]], float | None]
"""Which rows and columns of images are picked, and the value where one is negative; None: none is."""


def padding(node: fx.Node) -> Picks | None:
    """Padding of height and width: with a number, or with what is there (reflected, repeated, from the other side)."""
    pads = [int(each) for each in argument(node, 1, "pad")]
    if len(pads) > 4:
        return None
    if is_call(node, aten.constant_pad_nd.default):
        return _filled(node, pads, argument(node, 2, "value", 0))
    if argument(node, 2, "mode", "constant") == "constant":
        return _filled(node, pads, argument(node, 3, "value"))
    return picking(node) if len(pads) == 4 else None


def _filled(node: fx.Node, pads: list[int], number: float | None) -> Picks:
    left, right, top, bottom = [*pads, 0, 0, 0, 0][:4]
    sides = ((top, bottom), (left, right))
    sizes = shape_of(args_of(node)[0])[-2:]
    places = [
        np.array([place if 0 <= place < size else -1 for place in range(-before, size + after)], np.int32)
        for size, (before, after) in zip(sizes, sides, strict=True)
    ]
    return places, float(number or 0.0)


def picking(node: fx.Node) -> Picks:
    """What picks rows and columns of images, whichever; they are read off PyTorch's own operator."""
    sizes = shape_of(args_of(node)[0])[2:]
    found = [on_axis(node, torch.arange(size, dtype=torch.float32)[None], axis) for axis, size in enumerate(sizes)]
    return [each[0].int().numpy() for each in found], None


PICKED: Mapping[Any, Callable[[fx.Node], Picks | None]] = {
    aten.upsample_nearest2d.vec: picking,
    aten._upsample_nearest_exact2d.vec: picking,
    aten.constant_pad_nd.default: padding,
    aten.pad.default: padding,
    aten.reflection_pad2d.default: picking,
    aten.replication_pad2d.default: picking,
}
"""What each operator picks; None: it does more than that."""


def gather(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """The pixels of some rows and columns."""
    x, picks = args_of(node)[0], PICKED[node.target](node)
    if picks is None or not is_float(x, node) or len(shape_of(x)) != 4:
        return None
    places, fill = picks
    batch, channels, *before = walk.shape(x)
    sizes = (before[0], before[1]), (shape_of(node)[2], shape_of(node)[3])
    y = walk.launch(
        ("gather", batch, channels, sizes, fill),
        layer_name(node),
        [walk.nhwc(x), *map(walk.param, places)],
        (batch, *sizes[1], channels),
        lambda symbol: gather_kernel(symbol, batch, *sizes, channels, walk.machine.unit.lanes, fill),
    )
    return Value(y, nhwc=True)


_POOLING = pooling_rules(
    lambda walk, name, pooling, batch, channels: pooling_kernel(name, pooling, batch, channels, walk.machine.unit.lanes)
)


def mean(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Over height and width of images, over what lies side by side, or over one axis that others lie behind."""
    x, dims = args_of(node)[0], argument(node, 1, "dim")
    plane = _POOLING[aten.mean.dim](walk, node)
    if plane is not None or not dims or argument(node, 3, "dtype") is not None or not is_float(x):
        return cast(Value | None, plane)
    shape = walk.shape(x)
    taken = {dim % len(shape) for dim in dims}
    kept = [axis for axis in range(len(shape)) if axis not in taken and shape[axis] != 1]
    size = math.prod(shape_of(x)[axis] for axis in taken)
    if 0 in taken or size > _LONGEST_MEAN:
        return None
    if any(axis > least for axis in kept for least in taken if shape[least] != 1):
        return _axis_mean(walk, node, x, taken)
    leading = (shape[0], math.prod(shape[axis] for axis in kept if axis))
    y = walk.launch(
        ("row_mean", leading, size),
        layer_name(node),
        [walk.reshaped(walk.nchw(x), (*leading, size))],
        leading,
        lambda symbol: row_mean_kernel(symbol, leading, size, walk.machine.unit.lanes),
    )
    return Value(walk.reshaped(y, walk.shape(node)))


def _axis_mean(walk: Walk[Cpu], node: fx.Node, x: fx.Node, taken: set[int]) -> Value | None:
    """Over one axis, not the last."""
    shape = walk.shape(x)
    if len(taken) > 1 or len(shape) - 1 in taken:
        return None
    axis = taken.pop()
    memory, place = operand_of(walk, x, lambda _, column: column == 1)
    strides = place.strides[:axis] + place.strides[axis + 1 :]
    left = Operand(place.shape, strides, place.offset)
    kept, along = (*shape[:axis], *shape[axis + 1 :]), (shape_of(x)[axis], place.strides[axis])
    y = walk.launch(
        ("axis_mean", kept, left, along),
        layer_name(node),
        [memory],
        kept,
        lambda symbol: axis_mean_kernel(symbol, kept, left, along, walk.machine.unit.lanes),
    )
    return Value(walk.reshaped(y, walk.shape(node)))


RULES: Rules = {
    **_POOLING,
    aten.mean.dim: mean,
    **activation_rules(
        lambda walk, name, shape, activation: activation_kernel(name, shape, activation, walk.machine.unit.lanes)
    ),
    **_JOINS,
    aten.cat.default: cat,
    CHANNEL_SHUFFLE: channel_shuffle,
    aten.upsample_bilinear2d.vec: resize,
    **dict.fromkeys(PICKED, gather),
}
