"""Labels, and layers that use them, on a CPU."""

from __future__ import annotations

import math
import operator
from typing import Any

from torch import fx

from haste_compiler.codegen.cpu.kernels.activation import pack_channels
from haste_compiler.codegen.cpu.kernels.dense import pack_dense
from haste_compiler.codegen.cpu.kernels.tile_list import Tiles
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.flat.cpu.conv2d import Epilogue, choose_flat, flat_arguments, flat_kernel
from haste_compiler.methods.flat.cpu.join_labels import join_labels_kernel
from haste_compiler.methods.flat.cpu.pixels import label_pixels_kernel
from haste_compiler.methods.flat.cpu.window_labels import window_labels_kernel
from haste_compiler.methods.flat.ops.conv2d import FLAT_CONV2D, FlatConvCall
from haste_compiler.methods.flat.ops.join_labels import JOIN_LABELS, JoinLabelsCall
from haste_compiler.methods.flat.ops.label_pixels import LABEL_PIXELS, LabelPixelsCall
from haste_compiler.methods.flat.ops.window_labels import WINDOW_LABELS, WindowLabelsCall
from haste_compiler.methods.flat.statistics import record_of
from haste_compiler.ops.conv2d import WINOGRAD


class Pair(tuple[Value, Value]):
    """Outputs, and their labels."""


def label_pixels(walk: Walk[Cpu], node: fx.Node) -> Value:
    """Labels of an input."""
    x = LabelPixelsCall.of(node).x
    batch, channels, height, width = shape_of(x)
    described = (batch, channels, (height, width), walk.machine.unit.lanes)
    labels = walk.launch(
        ("label_pixels", *described),
        layer_name(node),
        [walk.nchw(x)],
        [("labels", (batch, height, width), "int32")],
        lambda symbol: label_pixels_kernel(symbol, *described),
    )
    return Value(labels)


def join_labels(walk: Walk[Cpu], node: fx.Node) -> Value:
    """Labels of several tensors together."""
    read = JoinLabelsCall.of(node).labels
    batch, height, width = shape_of(node)
    described = (len(read), batch, height * width)
    flat = [walk.reshaped(walk.value(each).expr, (batch, height * width)) for each in read]
    joint = walk.launch(
        ("join_labels", *described),
        layer_name(node),
        flat,
        [("joint", (batch, height * width), "int32")],
        lambda symbol: join_labels_kernel(symbol, *described),
    )
    return Value(walk.reshaped(joint, (batch, height, width)))


def window_labels(walk: Walk[Cpu], node: fx.Node) -> Value:
    """Labels of what is computed from windows."""
    call = WindowLabelsCall.of(node)
    geometry, batch = call.geometry, shape_of(node)[0]
    labels = walk.launch(
        ("window_labels", geometry, batch),
        layer_name(node),
        [walk.value(call.labels).expr],
        [("labels", (batch, *geometry.output_size), "int32")],
        lambda symbol: window_labels_kernel(symbol, geometry, batch),
    )
    return Value(labels)


def conv2d(walk: Walk[Cpu], node: fx.Node) -> Pair:
    """A convolution that computes alike tiles once."""
    call, machine, layer = FlatConvCall.of(node), walk.machine, layer_name(node)
    geometry, batch = call.geometry, shape_of(call.x)[0]
    dense = machine.choose_tiling(geometry, batch, node.meta.get(WINOGRAD, 0))
    tiling = choose_flat(geometry, batch, machine.unit, machine.threads, dense)
    epilogue = Epilogue(call.residual is not None, call.activation, call.slope is not None)
    bias = None if call.bias is None else walk.constant(call.bias)
    slope = [] if call.slope is None else [pack_channels(walk.constant(call.slope), geometry.out_channels)]
    residual = [] if call.residual is None else [walk.nhwc(call.residual)]
    added = [] if call.residual_labels is None else [walk.value(call.residual_labels).expr]
    weights = map(walk.param, pack_dense(walk.constant(call.weight), bias, geometry, dense))
    y, labels, counts, squares = walk.launch_several(
        ("flat_conv2d", geometry, batch, tiling, epilogue),
        layer,
        [
            walk.nhwc(call.x),
            *weights,
            *residual,
            *map(walk.param, slope),
            walk.value(call.labels).expr,
            *added,
            walk.parameters_of(layer, 1),
        ],
        flat_arguments(geometry, batch, tiling, epilogue)[-4:],
        lambda symbol: flat_kernel(symbol, geometry, batch, tiling, epilogue),
    )
    (tolerance,) = walk.constant(call.settings).tolist()
    tiles = math.prod(Tiles(geometry, batch, tiling.side).grid)
    walk.add_record(record_of(layer, tolerance, geometry, tiles), [counts, squares])
    return Pair((Value(y, nhwc=True), Value(labels)))


def pick(walk: Walk[Cpu], node: fx.Node) -> Any:
    """One of a pair."""
    source, index = args_of(node)
    value = walk.values.get(source)
    return value[index] if isinstance(value, Pair) else None


RULES: Rules = {
    FLAT_CONV2D: conv2d,
    JOIN_LABELS: join_labels,
    LABEL_PIXELS: label_pixels,
    WINDOW_LABELS: window_labels,
    operator.getitem: pick,
}
