"""Which convolutions may compute tiles with alike windows once: those whose inputs' labels are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.conv2d import is_flat
from haste_compiler.codegen.cpu.kernels.tile_list import LEAST_PIXELS, Tiles
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import is_call, is_constant, layer_name, shape_of, sole_user
from haste_compiler.methods.flat.carry import carried, is_source, windows_of
from haste_compiler.methods.flat.config import NAME, FlatConfig
from haste_compiler.methods.flat.labels import SIDE
from haste_compiler.methods.flat.ops.conv2d import FLAT_CONV2D, FlatConvCall
from haste_compiler.methods.method import Site, Verdict
from haste_compiler.methods.prediction import CHOICE, Choice, is_open, is_taken
from haste_compiler.ops.conv2d import CONV2D, ConvCall

aten = torch.ops.aten

_LEAST_PRODUCTS = 100
"""Multiply-adds of a tile for every label that it reads: looking at one takes about as long as ten or twenty."""

_LONGEST_REACH = 32
"""Pixels of the network's input along a side of a tile: even areas are seldom larger than what such a tile reads."""


def sites(gm: fx.GraphModule, config: FlatConfig) -> list[Site]:
    """The convolutions that are to compute alike tiles once, each by itself."""

    def wanted(node: fx.Node) -> bool:
        choice, own = node.meta.get(CHOICE), config.for_layer(layer_name(node))
        return eligibility(node, own)[0] if is_open(choice, NAME) else is_taken(choice, NAME)

    found = []
    for node in labelled(gm.graph, wanted):
        if is_call(node, CONV2D) and wanted(node):
            own = config.for_layer(layer_name(node))
            found.append(Site(NAME, (node,), () if own.cost_model else (node,), own))
    return found


def labelled(graph: fx.Graph, wanted: Callable[[fx.Node], bool]) -> dict[fx.Node, None]:
    """The nodes whose tensors have labels, in order, where the method takes the convolutions that are ``wanted``."""
    known: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if is_call(node, CONV2D) and wanted(node):
            call = ConvCall.of(node)
            found = call.x in known and (call.residual is None or call.residual in known)
        else:
            found = is_source(node) or hands_on(node, known.__contains__)
        if found:
            known[node] = None
    return known


def hands_on(node: fx.Node, known: Callable[[fx.Node], bool]) -> bool:
    """Whether labels of a node's tensor follow from those that are ``known``; another method's layers have none."""
    choice: Choice | None = node.meta.get(CHOICE)
    if choice is not None and choice.taken:
        return False
    windows = windows_of(node)
    return bool(carried(node, known)) or (windows is not None and known(windows[0]))


def judge(node: fx.Node, config: FlatConfig) -> Verdict | None:
    """What the configuration of its layer says of a convolution, plain or the method's."""
    if is_call(node, FLAT_CONV2D):
        return Verdict(True, "alike tiles are computed once", FlatConvCall.of(node).geometry)
    if not is_call(node, CONV2D):
        return None
    eligible, reason = eligibility(node, config)
    # The graph says of a plain convolution whether it could have been one of the method's.
    if eligible and CHOICE not in node.meta:
        eligible = node in labelled(node.graph, lambda each: eligibility(each, config)[0])
        reason = reason if eligible else "nothing is known of which pixels of its input are alike"
    return Verdict(eligible, reason, ConvCall.of(node).geometry())


def eligibility(node: fx.Node, config: FlatConfig) -> tuple[bool, str]:
    """Whether the configuration lets a plain convolution compute alike tiles once, and why; but for its input."""
    if not config.enabled:
        return False, "disabled by the configuration"
    call, geometry = ConvCall.of(node), ConvCall.of(node).geometry()
    if not is_constant(call.weight):
        return False, "its weights are computed while the network runs"
    if geometry.is_depthwise:
        return False, "depthwise: it multiplies too little"
    if geometry.kernel == (3, 3) and geometry.dilation != (1, 1):
        return False, "a dilated 3x3 convolution is computed otherwise"
    if is_flat(geometry) and is_call(call.x, aten.mul.Tensor) and sole_user(call.x) is node:
        return False, "its filters are scaled in the place of its input"
    pixels = math.prod(geometry.output_size)
    if pixels < LEAST_PIXELS:
        return False, f"{pixels} pixels of outputs, fewer than {LEAST_PIXELS}"
    products = _products_of_a_label(geometry)
    if config.cost_model and products < _LEAST_PRODUCTS:
        return False, f"{products} multiply-adds for each label that a tile reads, fewer than {_LEAST_PRODUCTS}"
    reach = SIDE * _scale(node)
    if config.cost_model and reach > _LONGEST_REACH:
        return False, f"a tile is {reach} pixels of the network's input long, more than {_LONGEST_REACH}: few are alike"
    return True, "alike tiles are computed once"


def _scale(node: fx.Node) -> int:
    """How many pixels of the network's largest input are one of a node's, along an axis."""
    heights = [shape_of(each)[2] for each in node.graph.find_nodes(op="placeholder") if is_source(each)]
    return round(max(heights, default=1) / shape_of(node)[2])


def _products_of_a_label(geometry: ConvGeometry) -> int:
    tiles = Tiles(geometry, 1, SIDE)
    return geometry.dense_macs // tiles.count // math.prod(tiles.window)
