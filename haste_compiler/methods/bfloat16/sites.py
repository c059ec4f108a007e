"""Which layers may multiply in bfloat16."""

from __future__ import annotations

import math

from torch import fx

from haste_compiler.graph.geometry import row_geometry
from haste_compiler.graph.nodes import is_call, is_constant, layer_name, shape_of
from haste_compiler.methods.bfloat16.config import NAME, BFloat16Config
from haste_compiler.methods.bfloat16.ops.conv2d import BFLOAT16_CONV2D, BFloat16ConvCall
from haste_compiler.methods.bfloat16.ops.linear import BFLOAT16_LINEAR, BFloat16LinearCall
from haste_compiler.methods.bfloat16.ops.winograd import BFLOAT16_WINOGRAD, BFloat16WinogradCall
from haste_compiler.methods.method import Site, Verdict
from haste_compiler.methods.prediction import CHOICE, is_open, is_taken
from haste_compiler.methods.quantized.sites import geometry_of, plain_call
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR


def sites(gm: fx.GraphModule, config: BFloat16Config) -> list[Site]:
    """The layers that are to multiply in bfloat16, each by itself."""
    found = []
    for node in gm.graph.nodes:
        own = config.for_layer(layer_name(node))
        if is_call(node, CONV2D, LINEAR) and _is_wanted(node, own):
            found.append(Site(NAME, (node,), () if own.cost_model else (node,), own))
    return found


def _is_wanted(node: fx.Node, config: BFloat16Config) -> bool:
    choice = node.meta.get(CHOICE)
    if is_open(choice, NAME):
        return eligibility(node, config)[0]
    return is_taken(choice, NAME)


def judge(node: fx.Node, config: BFloat16Config) -> Verdict | None:
    """What the configuration of its layer says of a layer, plain or of bfloat16."""
    if is_call(node, BFLOAT16_WINOGRAD):
        call = BFloat16WinogradCall.of(node)
        return Verdict(True, f"bf16, F({call.size}×{call.size})", call.geometry, call.size)
    if is_call(node, BFLOAT16_CONV2D):
        return Verdict(True, "bf16", BFloat16ConvCall.of(node).geometry, 0)
    if is_call(node, BFLOAT16_LINEAR):
        *rows, channels = shape_of(BFloat16LinearCall.of(node).x)
        return Verdict(True, "bf16", row_geometry(channels, shape_of(node)[-1], math.prod(rows)), 0)
    if is_call(node, CONV2D, LINEAR):
        return Verdict(*eligibility(node, config), geometry_of(node))
    return None


def eligibility(node: fx.Node, config: BFloat16Config) -> tuple[bool, str]:
    """Whether the configuration lets a plain convolution or linear layer multiply in bfloat16, and why."""
    if not config.enabled:
        return False, "disabled by the configuration"
    if 0 in shape_of(node):
        return False, "its output is empty"
    if not is_constant(plain_call(node).weight):
        return False, "its weights are computed while the network runs"
    if geometry_of(node).is_depthwise:
        return False, "depthwise: it multiplies too little for what rounding takes"
    return True, "bf16"
