"""Convolutions and linear layers on a card: depthwise, by Winograd's algorithm, or as one matrix product."""

from __future__ import annotations

import math
from typing import Any

from haste_compiler.codegen.cuda.kernels.conv2d import add_parts_kernel, choose_tiling, conv2d_kernel, pack_filters
from haste_compiler.codegen.cuda.kernels.pointwise import depthwise_kernel, pack_depthwise_filters
from haste_compiler.codegen.cuda.kernels.winograd import (
    CardWinograd,
    choose_winograd,
    pack_plain_filters,
    winograd_filters,
    winograd_input_kernel,
    winograd_output_kernel,
)
from haste_compiler.codegen.cuda.machine import Cuda
from haste_compiler.codegen.rules.products import Product, product_rules
from haste_compiler.codegen.walk import Walk


def multiply(walk: Walk[Cuda], product: Product) -> Any:
    """Launch the kernels of a product."""
    geometry, batch, shape = product.geometry, product.batch, product.out_shape
    epilogue: dict[str, Any] = {"residual": bool(product.residual), "activation": product.activation}
    bias = walk.param(product.full_bias)
    if geometry.is_depthwise:
        return walk.launch(
            ("depthwise", geometry, batch, *epilogue.values()),
            product.layer,
            [product.x, walk.param(pack_depthwise_filters(product.weight)), bias, *product.residual],
            shape,
            lambda name: depthwise_kernel(name, geometry, batch, **epilogue),
        )
    precisions = walk.machine.precisions
    precision = precisions.linear if product.kind == "linear" else precisions.convolution
    direct, tiling = choose_tiling(geometry, batch, walk.machine.processors, precision)
    if precision == "fp32":
        winograd = choose_winograd(geometry, batch, product.winograd, walk.machine.processors, direct)
        if winograd is not None:
            return _winograd(walk, product, winograd, bias)
    filters = walk.param(pack_filters(product.weight, geometry, tiling.tile, precision))
    end, whole = [bias, *product.residual], tiling.splits == 1
    y = walk.launch(
        (product.kind, geometry, batch, tiling, precision, *epilogue.values()),
        product.layer,
        [product.x, filters, *(end if whole else [])],
        shape if whole else (tiling.splits, math.prod(shape[:3]), shape[3]),
        lambda name: conv2d_kernel(name, geometry, batch, tiling, precision, **epilogue),
    )
    if whole:
        return y
    return walk.launch(
        ("add_parts", tiling.splits, shape, *epilogue.values()),
        product.layer,
        [y, *end],
        shape,
        lambda name: add_parts_kernel(name, tiling.splits, shape, **epilogue),
    )


def _winograd(walk: Walk[Cuda], product: Product, winograd: CardWinograd, bias: Any) -> Any:
    geometry, layer = winograd.geometry, product.layer
    epilogue: dict[str, Any] = {"residual": bool(product.residual), "activation": product.activation}
    transformed = walk.launch(
        ("winograd_input", winograd),
        layer,
        [product.x],
        (winograd.tiles, 1, 1, winograd.positions * geometry.in_channels),
        lambda name: winograd_input_kernel(name, winograd),
    )
    _, tiling = winograd.tiling(walk.machine.processors)
    filters = pack_filters(winograd_filters(product.weight, winograd), winograd.products, tiling.tile, "fp32")
    sums = walk.launch(
        ("winograd_products", winograd, tiling),
        layer,
        [transformed, walk.param(filters)],
        (1, winograd.tiles, winograd.products.out_channels),
        lambda name: conv2d_kernel(name, winograd.products, winograd.tiles, tiling, "fp32", sums=True),
    )
    return walk.launch(
        ("winograd_output", winograd, *epilogue.values()),
        layer,
        [sums, product.x, walk.param(pack_plain_filters(product.weight)), bias, *product.residual],
        (winograd.batch, *geometry.output_size, geometry.out_channels),
        lambda name: winograd_output_kernel(name, winograd, **epilogue),
    )


RULES = product_rules(multiply)
