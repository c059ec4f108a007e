"""Convolutions and linear layers on a CPU: depthwise, dense, or reading only the inputs that aren't zero."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from tvm import tirx

from haste_compiler.codegen.cpu.kernels.conv2d import is_flat
from haste_compiler.codegen.cpu.kernels.dense import dense_kernel, pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import depthwise_kernel, pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.scale_filters import scale_filters_kernel
from haste_compiler.codegen.cpu.kernels.sparse_input import sparse_input_kernel, sparse_input_tiling
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.rules.products import Product, conv_product, product_rules
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import is_call, is_tensor, shape_of, sole_user
from haste_compiler.ops.conv2d import CONV2D, ConvCall

aten = torch.ops.aten


def multiply(walk: Walk[Cpu], product: Product, factors: Any = None) -> Any:
    """Launch the kernel of a product; ``factors`` (channels,): what the input of a 1×1 one is to be multiplied by."""
    machine, geometry, batch = walk.machine, product.geometry, product.batch
    epilogue: dict[str, Any] = {"residual": bool(product.residual), "activation": product.activation}
    if geometry.is_depthwise:
        constants = [pack_depthwise_filters(product.weight), product.full_bias]
        key: tuple[Any, ...] = ("depthwise", geometry, batch, *epilogue.values())

        def build(symbol: str) -> tirx.PrimFunc:
            return depthwise_kernel(symbol, geometry, batch, machine.unit, machine.threads, **epilogue)
    else:
        tiling = machine.choose_tiling(geometry, hint_of(batch), product.winograd)
        constants = pack_dense(product.weight, product.bias, geometry, tiling)
        sparse = None if factors is not None else sparse_input_tiling(geometry, batch, tiling, product.weight)
        key = (product.kind, geometry, batch, tiling, *epilogue.values(), sparse is not None)

        def build(symbol: str) -> tirx.PrimFunc:
            if sparse is not None:
                return sparse_input_kernel(symbol, geometry, sparse, **epilogue)
            return dense_kernel(symbol, geometry, batch, tiling, **epilogue)

    filters, *others = map(walk.param, constants)
    if factors is not None:
        filters = _scaled(walk, product, filters, factors)
    return walk.launch(key, product.layer, [product.x, filters, *others, *product.residual], product.out_shape, build)


def conv2d(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """A convolution; where the channels of an image are scaled before, its filters are, which are fewer."""
    call = ConvCall.of(node)
    scaling = call.x if is_call(call.x, aten.mul.Tensor) and sole_user(call.x) is node else None
    geometry = call.geometry()
    if scaling is not None and is_flat(geometry) and 2 * geometry.out_channels < math.prod(geometry.output_size):
        for x, factors in (args_of(scaling)[:2], args_of(scaling)[1::-1]):
            if is_tensor(factors) and is_tensor(x) and _is_of_channels(factors, x):
                return Value(multiply(walk, conv_product(walk, node, x), walk.nchw(factors)), nhwc=True)
    return _RULES[CONV2D](walk, node)


def _is_of_channels(factors: fx.Node, x: fx.Node) -> bool:
    """Whether these are float32 tensors (1, C, 1, 1) and (1, C, H, W)."""
    channels = shape_of(x)[1] if len(shape_of(x)) == 4 else None
    return is_float(factors, x) and factors.meta["val"].shape == (1, channels, 1, 1) and x.meta["val"].shape[0] == 1


def _scaled(walk: Walk[Cpu], product: Product, filters: Any, factors: Any) -> Any:
    """The packed filters of a 1×1 convolution times the factors of its input's channels."""
    tiling = walk.machine.choose_tiling(product.geometry, hint_of(product.batch), product.winograd)
    assert isinstance(tiling, ConvTiling)
    tile, channels = tiling.tile, product.geometry.in_channels
    tiles = math.ceil(product.geometry.out_channels / tile.channels)
    return walk.launch(
        ("scale_filters", tiles, channels, tile),
        product.layer,
        [filters, walk.reshaped(factors, (channels,))],
        (tiles * channels * tile.channels,),
        lambda symbol: scale_filters_kernel(symbol, tiles, channels, tile),
    )


_RULES = product_rules(multiply)

RULES: Rules = {**_RULES, CONV2D: conv2d}
