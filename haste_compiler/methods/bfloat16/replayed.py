"""A layer of bfloat16 in eager PyTorch, and the plain layer that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from haste_compiler.methods.bfloat16.ops.conv2d import BFloat16ConvCall
from haste_compiler.methods.bfloat16.ops.linear import BFLOAT16_LINEAR, BFloat16LinearCall
from haste_compiler.methods.bfloat16.ops.winograd import BFLOAT16_WINOGRAD, BFloat16WinogradCall
from haste_compiler.methods.rounded_layer import PLAIN, RoundedLayer


def replayed(node: fx.Node, values: Mapping[fx.Node, Any]) -> RoundedLayer:
    """The layer of a node; ``values`` as of ``Method.replayed``."""
    plain = node.meta[PLAIN]
    if node.target is BFLOAT16_LINEAR:
        return RoundedLayer(BFloat16LinearCall.of(node), values, plain)
    if node.target is BFLOAT16_WINOGRAD:
        tiles = BFloat16WinogradCall.of(node)
        return RoundedLayer(tiles, values, plain, ([1, 1], tiles.padding, [1, 1], 1), tiles.size)
    call = BFloat16ConvCall.of(node)
    return RoundedLayer(call, values, plain, call.window)
