"""Streams on a CPU: operators that compute a part of their outputs, and how any other tensor gets its planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from haste_compiler.codegen.cpu.kernels.enter import enter_kernel
from haste_compiler.codegen.cpu.kernels.kept_pixels import PixelSource, Pixelwise, SideBySide
from haste_compiler.codegen.cpu.kernels.kept_pooling import kept_pooling_kernel
from haste_compiler.codegen.cpu.kernels.listed import choose_listed, listed_kernel, pack_listed
from haste_compiler.codegen.cpu.kernels.tile_list import LEAST_PIXELS, Tiles
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.kept_pixels import (
    PIXEL_RULES,
    keep_pixels,
    kept_states,
    plane_expressions,
    plane_state,
)
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.rules.pooling import POOLINGS
from haste_compiler.codegen.rules.products import Product, conv_product
from haste_compiler.codegen.stream_walk import Planes, Streams, StreamWalk
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, args_of
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D, ConvTransposeCall


def enter(walk: StreamWalk[Cpu], node: fx.Node, tolerant: bool) -> None:
    """Give a tensor (N, C, H, W) of float32 its planes. If it is ``tolerant``, a pixel may differ a little from what is
    kept of it."""
    batch, channels, *size = shape_of(node)
    nhwc = walk.is_nhwc(node)
    x = walk.nhwc(node) if nhwc else walk.nchw(node)
    key = ("enter", batch, channels, *size, nhwc, tolerant)
    described = (batch, (size[0], size[1]), channels, walk.machine.unit.lanes)
    values, sizes, changes = walk.launch_kept(
        key,
        layer_name(node),
        [x, walk.tolerances],
        kept_states(batch, size, channels),
        [plane_state(batch, size)],
        lambda symbol: enter_kernel(symbol, *described, nhwc=nhwc, tolerant=tolerant),
    )
    walk.keep(node, values, Planes(sizes, changes))


def conv2d(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """A convolution of images: those tiles of outputs whose windows moved."""
    call, geometry = ConvCall.of(node), ConvCall.of(node).geometry()
    images = [call.x] if call.residual is None else [call.x, call.residual]
    if not is_float(*images) or math.prod(geometry.output_size) < LEAST_PIXELS:
        return None
    if geometry.kernel == (3, 3) and geometry.dilation != (1, 1) and not geometry.is_depthwise:
        # By phases it may be computed by another kernel, which rounds otherwise.
        return None
    planes = [walk.planes(image) for image in images]
    values, made = _listed(walk, conv_product(walk, node, call.x), planes)
    return walk.keep(node, values, made)


def _listed(walk: StreamWalk[Cpu], product: Product, planes: Sequence[Planes]) -> tuple[Any, Planes]:
    """Launch a convolution of kept images, whose planes are given: of its input, and of what is added."""
    machine, batch, geometry = walk.machine, product.batch, product.geometry
    dense = None if geometry.is_depthwise else machine.choose_tiling(geometry, batch, product.winograd)
    tiling = choose_listed(geometry, batch, machine.unit, machine.threads, dense)
    tiles = Tiles(geometry, batch, tiling.side)
    size = geometry.output_size
    epilogue: dict[str, Any] = {"residual": bool(product.residual), "activation": product.activation}
    _moved, values, sizes, _count, changes = walk.launch_kept(
        ("listed", geometry, batch, tiling, *epilogue.values()),
        product.layer,
        [
            product.x,
            *map(walk.param, pack_listed(product.weight, product.bias, geometry, tiling)),
            *product.residual,
            *plane_expressions(planes),
            walk.tolerances,
        ],
        [((tiles.count,), FLOAT32.dtype), *kept_states(batch, size, geometry.out_channels), ((1,), "int32")],
        [plane_state(batch, size)],
        lambda symbol: listed_kernel(symbol, geometry, batch, tiling, machine.unit, **epilogue),
    )
    walk.count_tiles(product.layer, tiling.side, tiles.count, batch * geometry.dense_macs)
    return values, Planes(sizes, changes)


def conv_transpose2d(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """A transposed convolution whose filters don't overlap: a 1×1 one, whose outputs are laid out side by side."""
    call = ConvTransposeCall.of(node)
    geometry = call.geometry()
    if not is_float(call.x) or not geometry.is_tiling or call.residual is not None:
        return None
    if math.prod(geometry.input_size) < LEAST_PIXELS:
        return None
    planes, (down, across) = walk.planes(call.x), geometry.kernel
    filters = np.ascontiguousarray(walk.constant(call.weight).transpose(2, 3, 1, 0))
    weight = filters.reshape(-1, geometry.in_channels, 1, 1)
    bias = None if call.bias is None else np.tile(walk.constant(call.bias), down * across)
    size, batch = geometry.input_size, walk.shape(call.x)[0]
    flat = ConvGeometry(geometry.in_channels, len(weight), (1, 1), (1, 1), (0,) * 4, (1, 1), 1, size, (1, 1))
    product = Product("conv2d", layer_name(node), flat, batch, walk.nhwc(call.x), weight, bias, [], call.activation, 0)
    values, made = _listed(walk, product, [planes])
    source = PixelSource(size, len(weight), SideBySide(geometry.kernel))
    return keep_pixels(walk, node, Pixelwise("copy", (source,)), [values], [made], [])


def pool(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """A maximum or an average over windows: those that hold a pixel that changed."""
    x = args_of(node)[0]
    if len(shape_of(x)) != 4 or not walk.has_planes(x):
        return None
    pooling, planes = POOLINGS[node.target](node), walk.planes(x)
    batch, channels = shape_of(x)[:2]
    size = pooling.output_size
    values, sizes, changes = walk.launch_kept(
        ("kept_pooling", pooling, batch, channels),
        layer_name(node),
        [walk.nhwc(x), planes.sizes, planes.changes, walk.tolerances],
        kept_states(batch, size, channels),
        [plane_state(batch, size)],
        lambda symbol: kept_pooling_kernel(symbol, pooling, batch, channels, walk.machine.unit.lanes),
    )
    return walk.keep(node, values, Planes(sizes, changes))


STREAMS = Streams(
    {CONV2D: conv2d, CONV_TRANSPOSE2D: conv_transpose2d, **dict.fromkeys(POOLINGS, pool), **PIXEL_RULES}, enter
)
