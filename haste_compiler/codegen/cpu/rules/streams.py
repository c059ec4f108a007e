"""Streams on a CPU: operators that compute a part of their outputs, and how any other tensor gets its planes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.enter import enter_kernel
from haste_compiler.codegen.cpu.kernels.kept_pooling import kept_pooling_kernel
from haste_compiler.codegen.cpu.kernels.listed import choose_listed, listed_kernel, pack_listed
from haste_compiler.codegen.cpu.kernels.tile_list import Tiles
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.rules.pooling import max_pooling
from haste_compiler.codegen.rules.products import conv_product
from haste_compiler.codegen.stream_plan import Described
from haste_compiler.codegen.stream_walk import Planes, Streams, StreamWalk
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, args_of
from haste_compiler.graph.nodes import is_call, layer_name, shape_of
from haste_compiler.ops.conv2d import CONV2D, ConvCall

aten = torch.ops.aten

_LEAST_PIXELS = 64
"""Of an output plane: a smaller one has too few tiles."""


def enter(walk: StreamWalk[Cpu], node: fx.Node) -> None:
    """Give a tensor (N, C, H, W) of float32 its planes. What comes in may differ a little from what is kept of it."""
    batch, channels, *size = shape_of(node)
    nhwc = walk.is_nhwc(node)
    x = walk.nhwc(node) if nhwc else walk.nchw(node)
    tolerant = node.op == "placeholder"
    key = ("enter", batch, channels, *size, nhwc, tolerant)
    described = (batch, (size[0], size[1]), channels, walk.machine.unit.lanes)
    values, sizes, changes = walk.launch_kept(
        key,
        layer_name(node),
        [x, walk.tolerances],
        [((batch, *size, channels), FLOAT32.dtype), _plane(batch, size)],
        [_plane(batch, size)],
        lambda symbol: enter_kernel(symbol, *described, nhwc=nhwc, tolerant=tolerant),
    )
    walk.keep(node, values, Planes(sizes, changes))


def conv2d(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """A convolution of images: those tiles of outputs whose windows moved."""
    call, geometry = ConvCall.of(node), ConvCall.of(node).geometry()
    images = [call.x] if call.residual is None else [call.x, call.residual]
    if not is_float(*images) or geometry.is_depthwise or math.prod(geometry.output_size) < _LEAST_PIXELS:
        return None
    if (geometry.kernel == (3, 3) and geometry.dilation != (1, 1)) or is_call(call.x, aten.mul.Tensor):
        # By phases, or with its filters scaled, it may be computed by another kernel, which rounds otherwise.
        return None
    planes = [walk.planes(image) for image in images]
    product = conv_product(walk, node, call.x)
    machine, batch = walk.machine, product.batch
    dense = machine.choose_tiling(geometry, batch, product.winograd)
    tiling = choose_listed(geometry, batch, machine.unit, machine.threads, dense)
    tiles = Tiles(geometry, batch, tiling.side)
    size = geometry.output_size
    weights = map(walk.param, pack_listed(product.weight, product.bias, geometry, tiling))
    _moved, values, sizes, _listed, changes = walk.launch_kept(
        ("listed", geometry, batch, tiling, bool(product.residual), product.activation),
        product.layer,
        [
            product.x,
            *weights,
            *product.residual,
            *(plane for each in planes for plane in (each.sizes, each.changes)),
            walk.tolerances,
        ],
        [
            ((tiles.count,), FLOAT32.dtype),
            ((batch, *size, geometry.out_channels), FLOAT32.dtype),
            _plane(batch, size),
            ((1,), "int32"),
        ],
        [_plane(batch, size)],
        lambda symbol: listed_kernel(
            symbol, geometry, batch, tiling, residual=bool(product.residual), activation=product.activation
        ),
    )
    walk.count_tiles(product.layer, tiling.side, tiles.count, batch * geometry.dense_macs)
    return walk.keep(node, values, Planes(sizes, changes))


def max_pool(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """A maximum over windows: those that hold a pixel that changed."""
    x = args_of(node)[0]
    if len(shape_of(x)) != 4 or not walk.has_planes(x):
        return None
    pooling, planes = max_pooling(node), walk.planes(x)
    batch, channels = shape_of(x)[:2]
    size = pooling.output_size
    values, sizes, changes = walk.launch_kept(
        ("kept_pooling", pooling, batch, channels),
        layer_name(node),
        [walk.nhwc(x), planes.sizes, planes.changes, walk.tolerances],
        [((batch, *size, channels), FLOAT32.dtype), _plane(batch, size)],
        [_plane(batch, size)],
        lambda symbol: kept_pooling_kernel(symbol, pooling, batch, channels, walk.machine.unit.lanes),
    )
    return walk.keep(node, values, Planes(sizes, changes))


def _plane(batch: int, size: Any) -> Described:
    return (batch, *size), FLOAT32.dtype


STREAMS = Streams({CONV2D: conv2d, aten.max_pool2d.default: max_pool}, enter)
