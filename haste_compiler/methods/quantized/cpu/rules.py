"""Layers of integers on a CPU."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.cpu.kernels.attention_products import Products
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, AttentionTiling
from haste_compiler.codegen.cpu.kernels.conv2d import is_flat
from haste_compiler.codegen.cpu.kernels.pixels import PixelProduct
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.attention import launch_attention
from haste_compiler.codegen.cpu.rules.separable import PixelLayer, in_one_kernel, row_of
from haste_compiler.codegen.cpu.separable_tiling import Neighbour, tile_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.rules.products import as_rows
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Unmade, Value, Walk
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.quantized.cpu.attention import IntegerProducts, choose_blocks
from haste_compiler.methods.quantized.cpu.direct import direct_kernel, pack_direct
from haste_compiler.methods.quantized.cpu.direct_tiling import cheapest_tile, choose_direct
from haste_compiler.methods.quantized.cpu.pixels import IntegerProduct
from haste_compiler.methods.quantized.cpu.units import integer_unit, unit_for
from haste_compiler.methods.quantized.cpu.winograd import pack_winograd, winograd_kernel
from haste_compiler.methods.quantized.cpu.winograd_tiling import choose_winograd
from haste_compiler.methods.quantized.ops.attention import QUANTIZED_ATTENTION, QuantizedAttentionCall
from haste_compiler.methods.quantized.ops.conv2d import QUANTIZED_CONV2D, QuantizedConvCall
from haste_compiler.methods.quantized.ops.linear import QUANTIZED_LINEAR, QuantizedLinearCall
from haste_compiler.methods.quantized.ops.winograd import QUANTIZED_WINOGRAD, QuantizedWinogradCall


def conv2d(walk: Walk[Cpu], node: fx.Node) -> Value | Unmade | None:
    """A convolution as it is written."""
    call = QuantizedConvCall.of(node)

    def alone() -> Value:
        residual = [] if call.residual is None else [walk.nhwc(call.residual)]
        weight, batch = walk.constant(call.weight), walk.shape(call.x)[0]
        y = _direct(walk, node, call, call.geometry, batch, weight, [walk.nhwc(call.x), *residual])
        return Value(y, nhwc=True)

    return in_one_kernel(walk, node, _pixel_layer(walk, node, call), alone)


def _pixel_layer(walk: Walk[Cpu], node: fx.Node, call: QuantizedConvCall) -> PixelLayer | None:
    """A convolution as a ``PixelLayer``; None: it is none of single pixels."""
    geometry, machine = call.geometry, walk.machine
    if not is_flat(geometry) or 0 in shape_of(node):
        return None
    unit, roomy = unit_for(machine.target, call.bits, call.ternary), tile_unit(machine.unit)
    tiled = dataclasses.replace(unit, registers=roomy.registers)

    def product(least: int, most: int) -> IntegerProduct:
        tile = cheapest_tile(row_of(geometry, most), tiled, least)
        return IntegerProduct(row_of(geometry), call.activation, tile, unit, call.nonnegative)

    def weights(made: PixelProduct) -> list[NDArray[Any]]:
        assert isinstance(made, IntegerProduct)
        bias = None if call.bias is None else walk.constant(call.bias)
        tiling = ConvTiling(made.tile, 1, 1, False)
        filters = (walk.constant(call.weight), walk.constant(call.scale))
        return pack_direct(*filters, bias, geometry, tiling, unit, nonnegative=call.nonnegative)

    pixels, products = math.prod(shape_of(node)[::2]) * shape_of(node)[3], geometry.in_channels * geometry.out_channels
    cycles = pixels * products / (unit.lanes * unit.GROUP) * unit.CYCLES
    return PixelLayer(node, call.x, call.residual, Neighbour(products, cycles), product, weights)


def linear(walk: Walk[Cpu], node: fx.Node) -> Value:
    """A linear layer: a 1×1 convolution of a row of pixels."""
    call = QuantizedLinearCall.of(node)
    weight = walk.constant(call.weight)[:, :, None, None]
    geometry, batch, x, residual = as_rows(walk, call.x, call.residual, len(weight))
    y = _direct(walk, node, call, geometry, batch, weight, [x, *residual])
    return Value(walk.reshaped(y, walk.shape(node)))


def _direct(
    walk: Walk[Cpu],
    node: fx.Node,
    call: QuantizedConvCall | QuantizedLinearCall,
    geometry: ConvGeometry,
    batch: Any,
    weight: NDArray[np.int8],
    read: list[Any],
) -> Any:
    """Launch the kernel of a convolution as it is written; ``read``: its input, and its residual if it has one."""
    machine, unit = walk.machine, unit_for(walk.machine.target, call.bits, call.ternary)
    _, tiling = choose_direct(geometry, hint_of(batch), unit, machine.unit, machine.threads)
    bias = None if call.bias is None else walk.constant(call.bias)
    scale, nonnegative = walk.constant(call.scale), call.nonnegative
    weights = pack_direct(weight, scale, bias, geometry, tiling, unit, nonnegative=nonnegative)
    x, *residual = read
    how: dict[str, Any] = {
        "nonnegative": nonnegative,
        "residual": bool(residual),
        "activation": call.activation,
    }
    return walk.launch(
        ("quantized_conv2d", geometry, batch, tiling, call.bits, call.ternary, *how.values()),
        layer_name(node),
        [x, *map(walk.param, weights), *residual],
        (batch, *geometry.output_size, geometry.out_channels),
        lambda symbol: direct_kernel(symbol, geometry, batch, tiling, unit, **how),
    )


def winograd(walk: Walk[Cpu], node: fx.Node) -> Value:
    """A 3×3 convolution by Winograd's minimal filtering."""
    call, machine = QuantizedWinogradCall.of(node), walk.machine
    unit = unit_for(machine.target, call.bits)
    geometry, batch = call.geometry, walk.shape(call.x)[0]
    _, tiling = choose_winograd(geometry, hint_of(batch), call.size, unit, machine.unit, machine.threads)
    transformed = (walk.constant(call.transformed), walk.constant(call.transformed_scale))
    plain = (walk.constant(call.weight), walk.constant(call.scale))
    bias = None if call.bias is None else walk.constant(call.bias)
    weights = pack_winograd(transformed, plain, bias, geometry, tiling, unit)
    residual = [] if call.residual is None else [walk.nhwc(call.residual)]
    epilogue: dict[str, Any] = {"residual": bool(residual), "activation": call.activation}
    y = walk.launch(
        ("quantized_winograd", geometry, batch, tiling, call.bits, *epilogue.values()),
        layer_name(node),
        [walk.nhwc(call.x), *map(walk.param, weights), *residual],
        (batch, *geometry.output_size, geometry.out_channels),
        lambda symbol: winograd_kernel(symbol, geometry, batch, tiling, unit, **epilogue),
    )
    return Value(y, nhwc=True)


def attention(walk: Walk[Cpu], node: fx.Node) -> Value | fx.Node | None:
    """Attention with both of its products in integers."""
    call, unit = QuantizedAttentionCall.of(node), integer_unit(walk.machine.target)

    def products(sizes: AttentionSizes, tiling: AttentionTiling) -> Products:
        return IntegerProducts(sizes, choose_blocks(sizes, tiling), unit)

    tensors = [call.query, call.key, call.value]
    return launch_attention(walk, node, tensors, {"mask": call.mask}, call.scale, call.causal, products)


RULES: Rules = {
    QUANTIZED_ATTENTION: attention,
    QUANTIZED_CONV2D: conv2d,
    QUANTIZED_LINEAR: linear,
    QUANTIZED_WINOGRAD: winograd,
}
