"""Depthwise convolutions, with the 1×1 convolutions before and after them in one kernel where that is faster.

A layer that may become a part of another's kernel is left unmade (``Walk.value`` makes it) until the one that reads it
is lowered: that one takes it, or asks for its value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.cpu.kernels.conv2d import conv_work, is_flat
from haste_compiler.codegen.cpu.kernels.dense import pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.pixels import FloatProduct, PixelProduct
from haste_compiler.codegen.cpu.kernels.separable import Separable, separable_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.separable_tiling import Neighbour, cut, pays, saved_cycles, tile_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling, register_tiles, tile_cost
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.program import joint_layer
from haste_compiler.codegen.walk import Unmade, Value, Walk
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import LEFT_TO_PYTORCH, is_call, is_constant, layer_name, shape_of, sole_user
from haste_compiler.ops.conv2d import CONV2D, ConvCall


@dataclass(frozen=True)
class PixelLayer:
    """A 1×1 convolution that may be a part of a kernel.

    Attributes:
        node: its call.
        x: what it reads.
        residual: what is added before its activation.
        neighbour: what it takes.
        product: makes what is emitted, of pixels of which at least and at most so many are given at once.
        weights: as that takes them.
    """

    node: fx.Node
    x: fx.Node
    residual: fx.Node | None
    neighbour: Neighbour
    product: Callable[[int, int], PixelProduct]
    weights: Callable[[PixelProduct], list[NDArray[Any]]]


def float_layer(walk: Walk[Cpu], node: fx.Node) -> PixelLayer | None:
    """A plain convolution as a ``PixelLayer``; None: it is none of single pixels."""
    call = ConvCall.of(node)
    geometry = call.geometry()
    if not is_flat(geometry) or 0 in shape_of(node) or not is_constant(call.weight):
        return None
    unit = tile_unit(walk.machine.unit)

    def product(least: int, most: int) -> FloatProduct:
        row = row_of(geometry, most)
        tiles = register_tiles(1, least, geometry.out_channels, unit)
        tile = min(tiles, key=lambda each: tile_cost(conv_work(row, 1), each))
        return FloatProduct(row_of(geometry), call.activation, tile)

    def weights(made: PixelProduct) -> list[NDArray[Any]]:
        assert isinstance(made, FloatProduct)
        bias = None if call.bias is None else walk.constant(call.bias)
        return list(pack_dense(walk.constant(call.weight), bias, geometry, ConvTiling(made.tile, 1, 1, False)))

    pixels = shape_of(node)[0] * geometry.output_size[0] * geometry.output_size[1]
    products = geometry.in_channels * geometry.out_channels
    # Two products of a vector a cycle.
    neighbour = Neighbour(4 * products, pixels * products / (2 * unit.lanes))
    return PixelLayer(node, call.x, call.residual, neighbour, product, weights)


def row_of(geometry: ConvGeometry, pixels: int = 1) -> ConvGeometry:
    """The same 1×1 convolution of one row of pixels."""
    from haste_compiler.graph.geometry import row_geometry

    return row_geometry(geometry.in_channels, geometry.out_channels, pixels)


def in_one_kernel(
    walk: Walk[Cpu], node: fx.Node, layer: PixelLayer | None, alone: Callable[[], Value | None]
) -> Value | Unmade | None:
    """Lower a convolution in one kernel with what it reads, or leave it to one that reads it, or ``alone``.

    Args:
        walk: the walk.
        node: the convolution.
        layer: the same where it is 1×1.
        alone: launches its own kernels.
    """
    together = None if layer is None else separable(walk, layer)
    if together is not None:
        return together
    left = _deferred(node, layer)
    return alone() if left is None else Unmade(left, cast(Callable[[], Value], alone))


def _deferred(node: fx.Node, layer: PixelLayer | None) -> Any:
    """What is left of a layer until it is taken or asked for: itself, or None where it can't be a part of another.

    Args:
        node: a convolution.
        layer: the same where it is 1×1.
    """
    user = sole_user(node)
    if user is None or LEFT_TO_PYTORCH in user.meta or 0 in shape_of(node):
        return None
    if layer is not None:
        depthwise = _depthwise(user)
        return layer if depthwise is not None and depthwise.x is node and layer.residual is None else None
    call = _depthwise(node)
    return call if call is not None and _reads_pixels(user, node) else None


def _depthwise(node: fx.Node) -> ConvCall | None:
    """A depthwise convolution that a kernel may compute between others."""
    if not is_call(node, CONV2D):
        return None
    call = ConvCall.of(node)
    plain = call.geometry().is_depthwise and call.residual is None and is_constant(call.weight)
    return call if plain else None


def _reads_pixels(user: fx.Node, node: fx.Node) -> bool:
    """Whether a call is a convolution, plain or a method's, of the pixels of a node."""
    if getattr(user.target, "namespace", None) != "haste" or len(user.args) < 2:
        return False
    x, weight = user.args[:2]
    return x is node and is_constant(weight) and shape_of(weight)[2:] == (1, 1)  # type: ignore[arg-type]


def separable(walk: Walk[Cpu], layer: PixelLayer) -> Value | None:
    """A 1×1 convolution with the depthwise one that it reads, and maybe the one before, in one kernel."""
    call = walk.unmade(layer.x)
    if not isinstance(call, ConvCall):
        return None
    depthwise, geometry, batch = layer.x, call.geometry(), walk.shape(layer.x)[0]
    before = walk.unmade(call.x)
    expand = _cheapest(walk, geometry, hint_of(batch), before if isinstance(before, PixelLayer) else None, layer)
    if expand is None:
        return None
    first = expand[0]
    how, unit = cut(geometry, hint_of(batch), walk.machine.threads), walk.machine.unit
    project = layer.product(geometry.output_size[1], how.strip * geometry.output_size[1])
    width = geometry.input_size[1]
    made = None if first is None else first.product(width, width)
    work = Separable(made, geometry, call.activation, project, layer.residual is not None, how.block, how.strip)
    taps = pack_depthwise_filters(walk.constant(call.weight))
    bias = np.zeros(geometry.out_channels, np.float32) if call.bias is None else walk.constant(call.bias)
    weights = [
        *([] if first is None or made is None else first.weights(made)),
        taps,
        bias,
        *layer.weights(project),
    ]
    names = [layer_name(node) for node in (first.node if first else None, depthwise, layer.node) if node is not None]
    y = walk.launch(
        ("separable", work, batch),
        joint_layer(names),
        [
            walk.nhwc(call.x if first is None else first.x),
            *map(walk.param, weights),
            *([] if layer.residual is None else [walk.nhwc(layer.residual)]),
        ],
        (batch, *geometry.output_size, project.geometry.out_channels),
        lambda symbol: separable_kernel(symbol, work, batch, unit),
    )
    return Value(y, nhwc=True)


def _cheapest(
    walk: Walk[Cpu], geometry: ConvGeometry, batch: int, before: PixelLayer | None, after: PixelLayer
) -> tuple[PixelLayer | None] | None:
    """The layer before that is to be in the kernel, or None in its place; None: each layer is to have a kernel."""
    unit, threads = walk.machine.unit, walk.machine.threads

    def saved(first: PixelLayer | None) -> float:
        neighbour = None if first is None else first.neighbour
        cycles = saved_cycles(geometry, batch, unit, threads, neighbour, after.neighbour)
        return cycles if pays(cycles, neighbour, after.neighbour, threads) else 0.0

    best = max(dict.fromkeys((None, before)), key=saved)
    return (best,) if saved(best) > 0 else None
