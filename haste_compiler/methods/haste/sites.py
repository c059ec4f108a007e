"""Which convolutions may be HASTE convolutions, and which of them would share a grouping."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import fx

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import is_call, is_constant, layer_name, shape_of
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.ops.convolve import CONVOLVE, ConvolveCall
from haste_compiler.methods.haste.record import NAME
from haste_compiler.methods.method import Site, Verdict
from haste_compiler.methods.prediction import CHOICE, is_open, is_taken
from haste_compiler.ops.conv2d import CONV2D, ConvCall


def sites(gm: fx.GraphModule, config: HasteConfig) -> list[Site]:
    """The convolutions that are to be HASTE convolutions, by the grouping that they share."""
    together: dict[tuple[Any, ...], list[fx.Node]] = defaultdict(list)
    for node in gm.graph.nodes:
        if is_call(node, CONV2D) and _is_wanted(node, config.for_layer(layer_name(node))):
            together[_sharing_key(node, config.for_layer(layer_name(node)))].append(node)
    return [
        Site(
            NAME,
            tuple(nodes),
            tuple(node for node in nodes if not config.for_layer(layer_name(node)).cost_model),
            config.for_layer(layer_name(nodes[0])),
        )
        for nodes in together.values()
    ]


def _is_wanted(node: fx.Node, config: HasteConfig) -> bool:
    choice = node.meta.get(CHOICE)
    if is_open(choice, NAME):
        return eligibility(configured_geometry(node, config), config)[0]
    return is_taken(choice, NAME)


def judge(node: fx.Node, config: HasteConfig) -> Verdict | None:
    """What the configuration of its layer says of a convolution, plain or HASTE."""
    if not is_call(node, CONV2D, CONVOLVE):
        return None
    geometry = configured_geometry(node, config)
    return Verdict(*((True, "HASTE") if is_call(node, CONVOLVE) else eligibility(geometry, config)), geometry)


def conv_geometry(node: fx.Node, patch: tuple[int, int]) -> ConvGeometry:
    """The geometry of a plain or a HASTE convolution.

    Args:
        node: the call.
        patch: patch height and width asked for.
    """
    if is_call(node, CONV2D):
        return ConvCall.of(node).geometry(patch)
    return ConvolveCall.of(node).replace(patch=patch).geometry


def configured_geometry(node: fx.Node, config: HasteConfig) -> ConvGeometry:
    """The geometry of a convolution node with the patch that its layer's configuration asks for."""
    geometry = conv_geometry(node, (1, 1))
    return conv_geometry(node, config.patch_for(geometry.output_size))


def may_merge(node: fx.Node) -> bool:
    """Whether a configuration could make a plain convolution a HASTE convolution: constant weights, not depthwise."""
    weight = ConvCall.of(node).weight
    return is_constant(weight) and shape_of(weight)[1] > 1


def eligibility(geometry: ConvGeometry, config: HasteConfig) -> tuple[bool, str]:
    """Whether the configuration lets a convolution be a HASTE convolution, and why."""
    per_group = geometry.in_channels // geometry.groups
    if per_group == 1:
        return False, "depthwise: nothing to merge" if geometry.groups > 1 else "one input channel: nothing to merge"
    if not config.enabled:
        return False, "disabled by the configuration"
    if per_group < config.min_channels:
        return False, f"{per_group} input channels per group, fewer than min_channels={config.min_channels}"
    if geometry.taps < config.min_reads * geometry.stride[0] * geometry.stride[1]:
        reads = geometry.taps / (geometry.stride[0] * geometry.stride[1])
        return False, f"its input pixels are read {reads:g} times each, less than min_reads={config.min_reads}"
    return True, f"{per_group} input channels per group"


def _sharing_key(node: fx.Node, config: HasteConfig) -> tuple[Any, ...]:
    geometry = configured_geometry(node, config)
    windows = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.patch)
    # The configurations differ in nothing that matters here if they are equal but for who may take part.
    return ConvCall.of(node).x, windows, config.replace(min_channels=1, min_reads=0, cost_model=True)
