"""Convolutions and linear layers on a CPU: depthwise, dense, or reading only the inputs that aren't zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import fx
from tvm import tirx

from haste_compiler.codegen.cpu.kernels.conv2d import is_flat
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, dense_kernel, pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import depthwise_kernel, pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.phases import join_kernel, phase_size, split_kernel
from haste_compiler.codegen.cpu.kernels.scale_filters import scale_filters_kernel
from haste_compiler.codegen.cpu.kernels.sparse_input import sparse_input_kernel, sparse_input_tiling
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.separable import float_layer, in_one_kernel
from haste_compiler.codegen.cpu.tiling import ConvTiling, WinogradTiling
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.rules.products import Product, conv_product, product_rules
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Unmade, Value, Walk, args_of
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import is_call, is_tensor, shape_of, sole_user
from haste_compiler.ops.conv2d import CONV2D, ConvCall

aten = torch.ops.aten

_DILATIONS = 4
"""As many dilations as an image must be wide and high for its phases to be worth it."""


def multiply(walk: Walk[Cpu], product: Product, factors: Any = None) -> Any:
    """Launch the kernel of a product; ``factors`` (channels,): what the input of a 1×1 one is to be multiplied by."""
    machine, geometry, batch = walk.machine, product.geometry, product.batch
    epilogue: dict[str, Any] = {"residual": bool(product.residual), "activation": product.activation}
    if geometry.is_depthwise:
        weights = [walk.param(pack_depthwise_filters(product.weight)), walk.param(product.full_bias)]
        key: tuple[Any, ...] = ("depthwise", geometry, batch, *epilogue.values())

        def build(symbol: str) -> tirx.PrimFunc:
            return depthwise_kernel(symbol, geometry, batch, machine.unit, machine.threads, **epilogue)
    elif (plain := _phase(walk, product)) is not None:
        return _by_phases(walk, product, plain)
    else:
        tiling = machine.choose_tiling(geometry, hint_of(batch), product.winograd)
        weights = list(map(walk.param, pack_dense(product.weight, product.bias, geometry, tiling)))
        if factors is not None:
            weights[0] = _scaled(walk, product, tiling, weights[0], factors)
        sparse = None if factors is not None else sparse_input_tiling(geometry, batch, tiling, product.weight)
        key = (product.kind, geometry, batch, tiling, *epilogue.values(), sparse is not None)

        def build(symbol: str) -> tirx.PrimFunc:
            if sparse is not None:
                return sparse_input_kernel(symbol, geometry, sparse, **epilogue)
            return dense_kernel(symbol, geometry, batch, tiling, **epilogue)

    return walk.launch(key, product.layer, [product.x, *weights, *product.residual], product.out_shape, build)


def conv2d(walk: Walk[Cpu], node: fx.Node) -> Value | Unmade | None:
    """A convolution; where the channels of an image are scaled before, its filters are, which are fewer."""
    call = ConvCall.of(node)
    scaling = call.x if is_call(call.x, aten.mul.Tensor) and sole_user(call.x) is node else None
    geometry = call.geometry()
    if scaling is not None and is_flat(geometry) and 2 * geometry.out_channels < math.prod(geometry.output_size):
        for x, factors in (args_of(scaling)[:2], args_of(scaling)[1::-1]):
            if is_tensor(factors) and is_tensor(x) and _is_of_channels(factors, x):
                return Value(multiply(walk, conv_product(walk, node, x), walk.nchw(factors)), nhwc=True)
    return in_one_kernel(walk, node, float_layer(walk, node), lambda: cast(Value | None, _RULES[CONV2D](walk, node)))


def _phase(walk: Walk[Cpu], product: Product) -> ConvGeometry | None:
    """What a dilated 3×3 convolution is on each phase of its images, if Winograd's algorithm is to compute it there.

    Where the image is only a few dilations wide, most taps read padding, and the convolution as it is leaves them out.
    """
    geometry, (down, across), batch = product.geometry, product.geometry.dilation, product.batch
    square = geometry.kernel == (3, 3) and geometry.stride == (1, 1) and geometry.groups == 1
    if not square or down * across == 1 or product.residual or not isinstance(batch, int):
        return None
    wide = all(pixels >= _DILATIONS * step for pixels, step in zip(geometry.input_size, (down, across), strict=True))
    if not wide or geometry.padding != (down, down, across, across):
        return None
    size = phase_size(geometry.input_size, geometry.dilation)
    plain = replace(geometry, padding=(1, 1, 1, 1), dilation=(1, 1), input_size=size)
    tiling = walk.machine.choose_tiling(plain, batch * down * across, product.winograd)
    return plain if isinstance(tiling, WinogradTiling) else None


def _by_phases(walk: Walk[Cpu], product: Product, plain: ConvGeometry) -> Any:
    """A dilated convolution: every phase of the images on its own."""
    geometry, batch, lanes = product.geometry, product.batch, walk.machine.unit.lanes
    phases, size, dilation = batch * math.prod(geometry.dilation), geometry.input_size, geometry.dilation

    def moved(kind: str, x: Any, channels: int, out: tuple[int, ...], kernel: Callable[..., tirx.PrimFunc]) -> Any:
        sizes = (batch, size, channels, dilation)
        return walk.launch((kind, *sizes), product.layer, [x], out, lambda name: kernel(name, *sizes, lanes))

    apart = (phases, *plain.input_size, geometry.in_channels)
    x = moved("split_phases", product.x, geometry.in_channels, apart, split_kernel)
    y = multiply(walk, replace(product, geometry=plain, batch=phases, x=x))
    return moved("join_phases", y, geometry.out_channels, product.out_shape, join_kernel)


def _is_of_channels(factors: fx.Node, x: fx.Node) -> bool:
    """Whether these are float32 tensors (1, C, 1, 1) and (1, C, H, W)."""
    channels = shape_of(x)[1] if len(shape_of(x)) == 4 else None
    return is_float(factors, x) and factors.meta["val"].shape == (1, channels, 1, 1) and x.meta["val"].shape[0] == 1


def _scaled(walk: Walk[Cpu], product: Product, tiling: DenseTiling, filters: Any, factors: Any) -> Any:
    """The packed filters of a 1×1 convolution times the factors of its input's channels."""
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
