"""``haste::conv2d(x, W, ...)`` -> ``convolve(merge(x, group(x, hash(x))), W, ...)`` for every eligible layer."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import add_tensor, finish, get_tensor, insert_call, is_call, layer_name, replace
from haste_compiler.methods.choose import Sharing, sharings
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.ops.convolve import CONVOLVE
from haste_compiler.methods.haste.ops.group import GROUP
from haste_compiler.methods.haste.ops.hash import HASH
from haste_compiler.methods.haste.ops.merge import MERGE
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.layers import CHOICE, Choice, configured_geometry, may_merge
from haste_compiler.ops.conv2d import CONV2D

haste = torch.ops.haste


def rewrite_haste(gm: fx.GraphModule, config: HasteConfig) -> fx.GraphModule:
    """Turn every eligible convolution into a HASTE convolution.

    Convolutions that read the same tensor through the same windows, with the same settings, share one hash, grouping
    and merge: the norm of a channel's filters is then taken over all of them, the hyperplanes are those of the first.
    The module gets buffers ``<layer>.planes``, ``<layer>.settings`` and ``<layer>.filter_norm``, named after the first
    layer that shares them. All new nodes have ``meta["layer"]``, and those that are shared ``meta["layers"]`` and
    ``meta["gate"]``: None where the layers are forced, otherwise the sum of their predictions' gates.

    Args:
        gm: a graph that ``extract_convs`` went over.
        config: which layers, and how.

    Raises:
        ConfigError: an override of ``config`` matches no convolution that could be a HASTE convolution.
    """
    convs = [node for node in gm.graph.nodes if is_call(node, CONV2D)]
    config.check_layers(layer_name(node) for node in convs if may_merge(node))
    for sharing in sharings(gm, config):
        _rewrite(gm, sharing.nodes, sharing.config, _gate(sharing))
    return finish(gm)


def _gate(sharing: Sharing) -> tuple[float, ...] | None:
    choices: list[Choice | None] = [node.meta.get(CHOICE) for node in sharing.nodes]
    gates = [choice.prediction.gate for choice in choices if choice is not None]
    if sharing.forced or len(gates) < len(choices) or not all(gates):
        return None
    return tuple(map(math.fsum, zip(*gates, strict=True)))


def _rewrite(gm: fx.GraphModule, convs: Sequence[fx.Node], config: HasteConfig, gate: tuple[float, ...] | None) -> None:
    first, names = convs[0], [layer_name(conv) for conv in convs]
    geometry = configured_geometry(first, config)
    x = first.args[0]
    stride, padding, dilation = (list(sizes) for sizes in (geometry.stride, geometry.padding, geometry.dilation))
    windows = (list(geometry.kernel), stride, padding, dilation, geometry.groups, list(geometry.patch))
    with gm.graph.inserting_before(first):

        def call(target: Any, *args: Any) -> fx.Node:
            node = insert_call(gm, target, args, first)
            node.meta |= {"layer": names[0], "layers": names, "nonzeros": config.nonzeros, "gate": gate}
            return node

        drawn = draw_hyperplanes(geometry.window_pixels, config.seed, names[0], config.nonzeros)
        planes = add_tensor(gm, f"{names[0]}.planes", drawn, first)
        settings = add_tensor(gm, f"{names[0]}.settings", Settings.of(config).pack(), first)
        norm = add_tensor(gm, f"{names[0]}.filter_norm", joint_norm(gm, convs, geometry.groups), first)
        codes = call(HASH, x, planes, settings, *windows)
        grouped = call(GROUP, x, codes, norm, settings, *windows, config.merge, config.skip)
        slot, coeff, offset = (call(operator.getitem, grouped, index) for index in range(3))
        merged = call(MERGE, x, slot, *windows, config.merge)
    for conv in convs:
        _, weight, bias, residual, *_, activation = conv.args
        with gm.graph.inserting_before(conv):
            representation = (merged, slot, coeff, offset, weight, bias, residual, list(geometry.input_size))
            sizes = (stride, padding, dilation, geometry.groups, list(geometry.patch))
            convolved = insert_call(gm, CONVOLVE, (*representation, *sizes, activation), conv)
        convolved.meta["layer"] = layer_name(conv)
        if CHOICE in conv.meta:
            convolved.meta[CHOICE] = conv.meta[CHOICE]
        replace(conv, convolved)


def joint_norm(gm: fx.GraphModule, convs: Sequence[fx.Node], groups: int) -> Tensor:
    """|F_c| over all filters of all convolutions that share the grouping, float32 (C,)."""
    weights = [get_tensor(gm, conv.args[1]) for conv in convs]  # type: ignore[arg-type]
    squares = [filter_norms(weight.double(), groups).square() for weight in weights]
    return torch.stack(squares).sum(0).sqrt().float()
