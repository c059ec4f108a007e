"""Transposed convolutions: those that are one plain product, and the rest by a target's own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from haste_compiler.codegen.rules.products import Multiply, Product, Weighted
from haste_compiler.codegen.tables import Rule
from haste_compiler.codegen.transposed import one_pixel_filters, phase_filters, plain_filters, plain_phase
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import layer_name
from haste_compiler.graph.transposed import TransposedGeometry
from haste_compiler.ops.conv2d import WINOGRAD
from haste_compiler.ops.conv_transpose2d import ConvTransposeCall

Transposed = Weighted[TransposedGeometry]

OwnWay = Callable[[Walk[Any], fx.Node, Transposed], Any]
"""Launches the kernels of a transposed convolution; returns an expression of the result, NHWC."""


def transposed_rule(multiply: Multiply, own_way: OwnWay) -> Rule:
    """The rule for a target's ways to multiply and to compute phases."""

    def rule(walk: Walk[Any], node: fx.Node) -> Value | None:
        call = ConvTransposeCall.of(node)
        transposed = Transposed(
            "conv_transpose2d",
            layer_name(node),
            call.geometry(),
            walk.shape(call.x)[0],
            walk.nhwc(call.x),
            walk.constant(call.weight),
            None if call.bias is None else walk.constant(call.bias),
            [] if call.residual is None else [walk.nhwc(call.residual)],
            call.activation,
            node.meta.get(WINOGRAD, 0),
        )
        product = _whole(walk, transposed)
        if product is None:
            return Value(own_way(walk, node, transposed), nhwc=True)
        return Value(walk.reshaped(multiply(walk, product), transposed.out_shape), nhwc=True)

    return rule


def _whole(walk: Walk[Any], call: Transposed) -> Product | None:
    """The plain product that is the whole convolution: of an image of one pixel, or with one phase; None: none is."""
    geometry = call.geometry
    matrix = one_pixel_filters(call.weight, geometry)
    if matrix is not None:
        pixels, outputs = geometry.output_size[0] * geometry.output_size[1], len(matrix)
        plain = ConvGeometry(geometry.in_channels, outputs, (1, 1), (1, 1), (0,) * 4, (1, 1), 1, (1, 1), (1, 1))
        bias = None if call.bias is None else np.tile(call.bias, pixels)
        residual = [walk.reshaped(each, (call.batch, 1, 1, outputs)) for each in call.residual]
        return call.product(plain, call.x, matrix, bias, residual)
    (rows, *others), (columns, *more) = (axis.phases for axis in geometry.axes)
    phase = None if others or more else plain_phase(geometry, rows, columns)
    if phase is None or not phase.is_whole:
        return None
    filters = phase_filters(plain_filters(call.weight, geometry.groups), rows, columns)
    return call.product(phase.geometry, call.x, filters, call.bias, call.residual)
