"""``haste::conv2d(x, W, ...)`` -> ``convolve(merge(x, group(x, hash(x))), W, ...)`` for every layer that was chosen."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import (
    add_tensor,
    finish,
    get_tensor,
    insert_call,
    is_call,
    layer_name,
    replace,
)
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.ops.convolve import ConvolveCall
from haste_compiler.methods.haste.ops.group import GroupCall
from haste_compiler.methods.haste.ops.hash import HashCall
from haste_compiler.methods.haste.ops.merge import MergeCall
from haste_compiler.methods.haste.ops.window import Window
from haste_compiler.methods.haste.record import NAME
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.haste.sites import configured_geometry, may_merge, sites
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.method import Site
from haste_compiler.methods.prediction import CHOICE, Choice
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import CONV2D, ConvCall


def check_layers(gm: fx.GraphModule, config: HasteConfig) -> None:
    """Check that every override matches a convolution that could be a HASTE convolution.

    Raises:
        ConfigError: one doesn't.
    """
    convs = [node for node in gm.graph.nodes if is_call(node, CONV2D)]
    config.check_layers(layer_name(node) for node in convs if may_merge(node))


def rewrite_haste(gm: fx.GraphModule, config: HasteConfig) -> fx.GraphModule:
    """Turn every convolution that was chosen into a HASTE convolution; without choices, every eligible one.

    Convolutions that read the same tensor through the same windows, with the same settings, share one hash, grouping
    and merge: the norm of a channel's filters is then taken over all of them, the hyperplanes are those of the first.
    The module gets buffers ``<layer>.planes``, ``<layer>.settings`` and ``<layer>.filter_norm``, named after the first
    layer that shares them. All new nodes have ``meta["layer"]``, and those that are shared ``meta["layers"]`` and
    ``meta["gate"]``: None where the layers are forced, otherwise the sum of their predictions' gates.

    Args:
        gm: a graph that ``extract_convs`` went over.
        config: which layers, and how.
    """
    for site in sites(gm, config):
        _rewrite(gm, site.nodes, site.config, _gate(site))
    return finish(gm)


def _gate(site: Site) -> tuple[float, ...] | None:
    choices: list[Choice | None] = [node.meta.get(CHOICE) for node in site.nodes]
    gates = [choice.prediction.gate for choice in choices if choice is not None and choice.prediction is not None]
    if site.forced or len(gates) < len(choices) or not all(gates):
        return None
    return tuple(map(math.fsum, zip(*gates, strict=True)))


def _rewrite(gm: fx.GraphModule, convs: Sequence[fx.Node], config: HasteConfig, gate: tuple[float, ...] | None) -> None:
    first, names = convs[0], [layer_name(conv) for conv in convs]
    geometry = configured_geometry(first, config)
    x, window = ConvCall.of(first).x, Window.of(geometry)
    shared = {"layer": names[0], "layers": names, "nonzeros": config.nonzeros, "gate": gate}
    with gm.graph.inserting_before(first):

        def insert(call: OpCall) -> fx.Node:
            node = call.insert(gm, first)
            node.meta |= shared
            return node

        def pick(index: int) -> fx.Node:
            node = insert_call(gm, operator.getitem, (grouped, index), first)
            node.meta |= shared
            return node

        drawn = draw_hyperplanes(geometry.window_pixels, config.seed, names[0], config.nonzeros)
        planes = add_tensor(gm, f"{names[0]}.planes", drawn, first)
        settings = add_tensor(gm, f"{names[0]}.settings", Settings.of(config).pack(), first)
        norm = add_tensor(gm, f"{names[0]}.filter_norm", joint_norm(gm, convs, geometry.groups), first)
        codes = insert(HashCall(x, planes, settings, *window.args))
        grouped = insert(GroupCall(x, codes, norm, settings, *window.args, config.merge, config.skip))
        slot, coeff, offset = (pick(index) for index in range(3))
        merged = insert(MergeCall(x, slot, *window.args, config.merge))
    for conv in convs:
        plain = ConvCall.of(conv)
        representation: tuple[Any, ...] = (merged, slot, coeff, offset, plain.weight, plain.bias, plain.residual)
        sizes = (list(geometry.input_size), *window.args[1:])
        with gm.graph.inserting_before(conv):
            convolved = ConvolveCall(*representation, *sizes, plain.activation).insert(gm, conv)
        convolved.meta |= {"layer": layer_name(conv), OWNER: NAME}
        if CHOICE in conv.meta:
            convolved.meta[CHOICE] = conv.meta[CHOICE]
        replace(conv, convolved)


def joint_norm(gm: fx.GraphModule, convs: Sequence[fx.Node], groups: int) -> Tensor:
    """|F_c| over all filters of all convolutions that share the grouping, float32 (C,)."""
    weights = [get_tensor(gm, ConvCall.of(conv).weight) for conv in convs]
    squares = [filter_norms(weight.double(), groups).square() for weight in weights]
    return torch.stack(squares).sum(0).sqrt().float()
