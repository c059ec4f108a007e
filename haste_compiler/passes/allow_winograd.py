"""Note at every convolution up to which size of tiles Winograd's algorithm may compute it."""

from __future__ import annotations

from torch import fx

from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.layers import CONV2D, CONVOLVE

WINOGRAD = "winograd"
"""Where a convolution node's ``meta`` keeps the largest side of a tile, ``HasteConfig.winograd``."""


def allow_winograd(gm: fx.GraphModule, config: HasteConfig) -> fx.GraphModule:
    """Write each convolution's limit to its node's ``meta``; nothing else changes.

    Args:
        gm: a graph that ``rewrite_haste`` returned: a HASTE convolution is computed plainly where merging doesn't pay.
        config: says how far each layer's rounding may go.
    """
    for node in gm.graph.nodes:
        if is_call(node, CONV2D, CONVOLVE):
            node.meta[WINOGRAD] = config.for_layer(layer_name(node)).winograd
    return gm
