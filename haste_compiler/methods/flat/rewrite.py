"""``haste::conv2d(x, ...)`` -> ``haste::flat_conv2d(x, labels, ...)`` for every layer that was chosen."""

from __future__ import annotations

import operator

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    add_tensor,
    finish,
    insert_call,
    is_call,
    is_constant,
    layer_name,
    replace,
    sole_user,
)
from haste_compiler.methods.flat.carry import carried, is_source, windows_of
from haste_compiler.methods.flat.config import NAME, FlatConfig
from haste_compiler.methods.flat.ops.conv2d import FlatConvCall
from haste_compiler.methods.flat.ops.join_labels import JoinLabelsCall
from haste_compiler.methods.flat.ops.label_pixels import LabelPixelsCall
from haste_compiler.methods.flat.ops.window_labels import WindowLabelsCall
from haste_compiler.methods.flat.sites import eligibility, hands_on, sites
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.prediction import CHOICE
from haste_compiler.ops.conv2d import CONV2D, ConvCall

aten = torch.ops.aten


def check_layers(gm: fx.GraphModule, config: FlatConfig) -> None:
    """Check that every override matches a convolution that the method could take.

    Raises:
        ConfigError: one doesn't.
    """
    convs = [node for node in gm.graph.nodes if is_call(node, CONV2D)]
    any_cost = FlatConfig(cost_model=False)
    config.check_layers(layer_name(node) for node in convs if eligibility(node, any_cost)[0])


def rewrite_flat(gm: fx.GraphModule, config: FlatConfig) -> fx.GraphModule:
    """Let every layer that was chosen compute alike tiles once; without choices, every eligible one.

    The module gets a buffer ``<layer>.tolerance`` each. A ``prelu`` that alone reads such a layer becomes a part of it.

    Args:
        gm: a graph that ``extract_convs`` went over.
        config: which layers, and how.
    """
    chosen = {node: site.config for site in sites(gm, config) for node in site.nodes}
    labels: dict[fx.Node, fx.Node] = {}
    for node in list(gm.graph.nodes):
        if node in chosen:
            y, made = _rewrite(gm, node, chosen[node], labels)
            labels[y] = made
        elif is_source(node):
            with gm.graph.inserting_after(node):
                labels[node] = LabelPixelsCall(node).insert(gm, node)
        elif hands_on(node, labels.__contains__):
            labels[node] = _handed_on(gm, node, labels)
    return finish(gm)


def _handed_on(gm: fx.GraphModule, node: fx.Node, labels: dict[fx.Node, fx.Node]) -> fx.Node:
    """Labels of a node's tensor, from those of what it reads, behind the node."""
    windows = windows_of(node)
    with gm.graph.inserting_after(node):
        if windows is not None:
            x, numbers = windows
            return WindowLabelsCall(labels[x], *map(list, numbers)).insert(gm, node)
        read = list(dict.fromkeys(labels[each] for each in carried(node, labels.__contains__)))
        return read[0] if len(read) == 1 else JoinLabelsCall(read).insert(gm, node)


def _rewrite(
    gm: fx.GraphModule, conv: fx.Node, config: FlatConfig, labels: dict[fx.Node, fx.Node]
) -> tuple[fx.Node, fx.Node]:
    """Rewrite a layer; returns the nodes of its outputs and of their labels."""
    call, follower = ConvCall.of(conv), sole_user(conv)
    prelu = follower if is_call(follower, aten.prelu.default) and is_constant(follower.args[1]) else None
    last = conv if prelu is None else prelu
    name = layer_name(conv)
    with gm.graph.inserting_before(last):
        settings = add_tensor(gm, f"{name}.tolerance", torch.tensor([config.tile_tolerance]), conv)
        flat = FlatConvCall(
            call.x,
            labels[call.x],
            call.weight,
            call.bias,
            None if prelu is None else prelu.args[1],  # type: ignore[arg-type]
            call.residual,
            None if call.residual is None else labels[call.residual],
            settings,
            call.stride,
            call.padding,
            call.dilation,
            call.groups,
            call.activation,
        ).insert(gm, conv)
        flat.meta |= {"layer": name, OWNER: NAME}
        if CHOICE in conv.meta:
            flat.meta[CHOICE] = conv.meta[CHOICE]
        y, made = (insert_call(gm, operator.getitem, (flat, index), conv) for index in range(2))
    if prelu is not None:
        replace(prelu, y)
        gm.graph.erase_node(conv)
    else:
        replace(conv, y)
    return y, made
