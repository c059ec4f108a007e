"""Which layers may be computed in integers of 8 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

from torch import fx

from haste_compiler.graph.geometry import ConvGeometry, row_geometry
from haste_compiler.graph.nodes import is_call, is_constant, layer_name, shape_of
from haste_compiler.graph.winograd import SIZES, takes_winograd
from haste_compiler.methods.method import Site, Verdict
from haste_compiler.methods.prediction import CHOICE, is_open, is_taken
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.attention import is_attention
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.config import NAME, QuantizedConfig
from haste_compiler.methods.quantized.ops.attention import QUANTIZED_ATTENTION
from haste_compiler.methods.quantized.ops.conv2d import QUANTIZED_CONV2D, QuantizedConvCall
from haste_compiler.methods.quantized.ops.linear import QUANTIZED_LINEAR, QuantizedLinearCall
from haste_compiler.methods.quantized.ops.winograd import QUANTIZED_WINOGRAD, QuantizedWinogradCall
from haste_compiler.methods.quantized.reference.rounding import MOST_PRODUCTS
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.ops.linear import LINEAR, LinearCall


def sites(gm: fx.GraphModule, config: QuantizedConfig) -> list[Site]:
    """The layers that are to be computed in integers, each by itself."""
    found = []
    for node in gm.graph.nodes:
        own = config.for_layer(layer_name(node))
        if (is_call(node, CONV2D, LINEAR) or is_attention(node)) and _is_wanted(node, own):
            found.append(Site(NAME, (node,), () if own.cost_model else (node,), own))
    return found


def _is_wanted(node: fx.Node, config: QuantizedConfig) -> bool:
    choice = node.meta.get(CHOICE)
    if is_open(choice, NAME):
        return eligibility(node, config)[0]
    return is_taken(choice, NAME)


def judge(node: fx.Node, config: QuantizedConfig) -> Verdict | None:
    """What the configuration of its layer says of a layer, plain or of integers."""
    if is_call(node, QUANTIZED_WINOGRAD):
        call = QuantizedWinogradCall.of(node)
        return _taken(call.geometry, Algorithm(call.size, call.bits))
    if is_call(node, QUANTIZED_CONV2D):
        convolution = QuantizedConvCall.of(node)
        return _taken(convolution.geometry, Algorithm(0, convolution.bits, convolution.ternary))
    if is_call(node, QUANTIZED_LINEAR):
        linear = QuantizedLinearCall.of(node)
        return _taken(_rows(shape_of(linear.x), shape_of(node)[-1]), Algorithm(0, linear.bits, linear.ternary))
    if is_call(node, QUANTIZED_ATTENTION):
        return Verdict(True, "int8", None)
    if is_call(node, CONV2D, LINEAR):
        return Verdict(*eligibility(node, config), geometry_of(node))
    return None


def _taken(geometry: ConvGeometry, algorithm: Algorithm) -> Verdict:
    return Verdict(True, f"int8{algorithm.described()}", geometry, algorithm.setting)


def may_quantize(node: fx.Node) -> bool:
    """Whether some configuration would let a layer be computed in integers."""
    return eligibility(node, QuantizedConfig())[0]


def eligibility(node: fx.Node, config: QuantizedConfig) -> tuple[bool, str]:
    """Whether the configuration lets a plain layer, or attention, be computed in integers, and why."""
    if is_attention(node):
        return config.enabled, "int8" if config.enabled else "disabled by the configuration"
    weight, geometry = plain_call(node).weight, geometry_of(node)
    if not config.enabled:
        return False, "disabled by the configuration"
    if 0 in shape_of(node):
        return False, "its output is empty"
    if not is_constant(weight):
        return False, "its weights are computed while the network runs"
    if geometry.is_depthwise:
        return False, "depthwise: it multiplies too little for what rounding takes"
    if geometry.kernel[1] * geometry.in_channels // geometry.groups > MOST_PRODUCTS:
        return False, f"sums of more than {MOST_PRODUCTS} products may not fit 32 bits"
    return True, "int8"


def plain_call(node: fx.Node) -> ConvCall | LinearCall:
    """The call of a plain convolution or linear layer."""
    return LinearCall.of(node) if node.target is LINEAR else ConvCall.of(node)


def geometry_of(node: fx.Node) -> ConvGeometry:
    """The convolution that a plain layer is; a linear layer is one of a row of pixels."""
    if node.target is not LINEAR:
        return ConvCall.of(node).geometry()
    return _rows(shape_of(LinearCall.of(node).x), shape_of(node)[-1])


def _rows(x: tuple[int, ...], filters: int) -> ConvGeometry:
    """The convolution that a linear layer is, of its input's shape."""
    return row_geometry(x[-1], filters, math.prod(x[:-1]))


class WithWinograd(Protocol):
    """A configuration that limits the tiles of Winograd's algorithm."""

    @property
    def winograd(self) -> int:
        """The largest side of a tile of outputs; 0: none."""


def tile_sizes(geometry: ConvGeometry, config: WithWinograd) -> Iterator[int]:
    """How a layer may be computed, the most exact first: 0 as it is written, m by Winograd's F(m × m, 3 × 3)."""
    yield 0
    yield from (size for size in SIZES if size <= config.winograd and takes_winograd(geometry, size))


def algorithms(geometry: ConvGeometry, config: QuantizedConfig, *, ternary: bool = False) -> Iterator[Algorithm]:
    """How a layer may be computed, of inputs of 8 bits unless others are asked for, the most exact first.

    Args:
        geometry: the layer's.
        config: the layer's.
        ternary: its filters are ternary; those that are transformed for Winograd's algorithm aren't.
    """
    bits = config.bits or BITS
    yield from (Algorithm(size, bits, ternary and not size) for size in tile_sizes(geometry, config))
