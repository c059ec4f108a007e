"""A layer of integers in eager PyTorch, and the plain layer that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from haste_compiler.methods.quantized.ops.conv2d import QuantizedConvCall
from haste_compiler.methods.quantized.ops.linear import QUANTIZED_LINEAR, QuantizedLinearCall
from haste_compiler.methods.quantized.ops.winograd import QUANTIZED_WINOGRAD, QuantizedWinogradCall
from haste_compiler.methods.rounded_layer import PLAIN, RoundedLayer


def replayed(node: fx.Node, values: Mapping[fx.Node, Any]) -> RoundedLayer:
    """The layer of a node; ``values`` as of ``Method.replayed``."""
    plain = node.meta[PLAIN]
    if node.target is QUANTIZED_LINEAR:
        return RoundedLayer(QuantizedLinearCall.of(node), values, plain)
    if node.target is QUANTIZED_WINOGRAD:
        tiles = QuantizedWinogradCall.of(node)
        return RoundedLayer(tiles, values, plain, ([1, 1], tiles.padding, [1, 1], 1), tiles.size)
    call = QuantizedConvCall.of(node)
    return RoundedLayer(call, values, plain, call.window)
