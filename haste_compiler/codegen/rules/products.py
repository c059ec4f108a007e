"""Plain convolutions and linear layers: one product, which every target computes its own way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.geometry import ConvGeometry, row_geometry
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.graph.transposed import TransposedGeometry
from haste_compiler.ops.conv2d import CONV2D, WINOGRAD, ConvCall
from haste_compiler.ops.linear import LINEAR, LinearCall

G = TypeVar("G", ConvGeometry, TransposedGeometry)


@dataclass(frozen=True)
class Weighted(Generic[G]):
    """``activation(x * weight + bias + residual)``, a convolution, plain or transposed, or a linear layer.

    Attributes:
        kind: "conv2d", "conv_transpose2d" or "linear".
        layer: its name.
        geometry: of the convolution; a linear layer is a 1×1 convolution of one row of pixels.
        batch: images, maybe a ``DynamicBatch``.
        x: expression of the input, NHWC.
        weight: (K, C / groups, kh, kw); of a transposed convolution (C, K / groups, kh, kw).
        bias: (K,) or None.
        residual: expression of what is added, NHWC, in a list of one; or an empty list.
        activation: as operators write it.
        winograd: largest side of Winograd's tiles that may compute it.
    """

    kind: str
    layer: str
    geometry: G
    batch: Any
    x: Any
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    residual: list[Any]
    activation: str
    winograd: int

    @property
    def out_shape(self) -> tuple[Any, ...]:
        """Shape of the result, NHWC."""
        return (self.batch, *self.geometry.output_size, self.geometry.out_channels)

    @property
    def full_bias(self) -> NDArray[np.float32]:
        """The bias, zeros where there is none."""
        return np.zeros(self.geometry.out_channels, np.float32) if self.bias is None else self.bias

    def product(
        self,
        geometry: ConvGeometry,
        x: Any,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        residual: list[Any],
    ) -> Product:
        """A plain convolution that computes some of it, or all."""
        described = (self.activation, self.winograd)
        return Weighted("conv2d", self.layer, geometry, self.batch, x, weight, bias, residual, *described)


Product = Weighted[ConvGeometry]

Multiply = Callable[[Walk[Any], Product], Any]
"""Launches the kernels of a product; returns an expression of the result, NHWC."""


def conv_product(walk: Walk[Any], node: fx.Node, x: fx.Node) -> Product:
    """The product that a plain convolution is, of ``x`` instead of its own input."""
    call = ConvCall.of(node)
    weight = walk.constant(call.weight)
    bias = None if call.bias is None else walk.constant(call.bias)
    residual = [] if call.residual is None else [walk.nhwc(call.residual)]
    described = (walk.shape(x)[0], walk.nhwc(x), weight, bias, residual, call.activation, node.meta.get(WINOGRAD, 0))
    return Product("conv2d", layer_name(node), call.geometry(), *described)


def as_rows(
    walk: Walk[Any], x: fx.Node, residual: fx.Node | None, filters: int
) -> tuple[ConvGeometry, Any, Any, list[Any]]:
    """A linear layer as a 1×1 convolution of a row of pixels: geometry, batch, input and what is added, NHWC."""
    shape = walk.shape(x)
    batch, *rest = shape if isinstance(shape[0], DynamicBatch) else (1, *shape)
    rows = math.prod(rest[:-1])

    def flat(source: fx.Node, channels: int) -> Any:
        return walk.reshaped(walk.nchw(source), (batch, 1, rows, channels))

    added = [] if residual is None else [flat(residual, filters)]
    return row_geometry(shape[-1], filters, rows), batch, flat(x, shape[-1]), added


def product_rules(multiply: Multiply) -> Rules:
    """The rules for a target's way to multiply."""

    def conv2d(walk: Walk[Any], node: fx.Node) -> Value | None:
        x = ConvCall.of(node).x
        return None if shape_of(x)[0] == 0 else Value(multiply(walk, conv_product(walk, node, x)), nhwc=True)

    def linear(walk: Walk[Any], node: fx.Node) -> Value | None:
        call = LinearCall.of(node)
        shape = shape_of(call.x)
        if math.prod(shape[:-1]) == 0:
            return None
        weight = walk.constant(call.weight)[:, :, None, None]
        bias = None if call.bias is None else walk.constant(call.bias)
        geometry, batch, x, residual = as_rows(walk, call.x, call.residual, len(weight))
        described = (call.activation, node.meta.get(WINOGRAD, 0))
        product = Product("linear", layer_name(node), geometry, batch, x, weight, bias, residual, *described)
        return Value(walk.reshaped(multiply(walk, product), walk.shape(node)))

    return {CONV2D: conv2d, LINEAR: linear}
