"""Which eligible convolutions become HASTE convolutions: those that are predicted to be faster for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.layers import CHOICE, Choice, Prediction, configured_geometry, conv_layers
from haste_compiler.ops.conv2d import CONV2D

haste = torch.ops.haste


@dataclass(frozen=True)
class Sharing:
    """Convolutions that would share one hash and grouping.

    Attributes:
        nodes: the ``haste::conv2d`` calls, in order.
        forced: those of them that are HASTE convolutions whatever is predicted.
        config: the first one's configuration, which is everybody's where it matters.
    """

    nodes: tuple[fx.Node, ...]
    forced: tuple[fx.Node, ...]
    config: HasteConfig


Predict = Callable[[fx.GraphModule, Sequence[Sharing]], Sequence[Sequence[Prediction]]]
"""Predicts, for convolutions that would share a grouping, the times of each."""


_LIMITS = (0.75, 0.75)
"""Share of the dense time that HASTE may take in the best case and on natural images."""


def sharings(gm: fx.GraphModule, config: HasteConfig) -> list[Sharing]:
    """The convolutions that are to be HASTE convolutions, by the grouping that they share."""
    eligible = {layer.node for layer in conv_layers(gm, config) if layer.eligible}
    together: dict[tuple[Any, ...], list[fx.Node]] = defaultdict(list)
    for node in gm.graph.nodes:
        if is_call(node, CONV2D) and node.name in eligible:
            together[_sharing_key(node, config.for_layer(layer_name(node)))].append(node)
    return [
        Sharing(
            tuple(nodes),
            tuple(node for node in nodes if not config.for_layer(layer_name(node)).cost_model),
            config.for_layer(layer_name(nodes[0])),
        )
        for nodes in together.values()
    ]


def choose_layers(gm: fx.GraphModule, config: HasteConfig, predict: Predict | None) -> fx.GraphModule:
    """Decide for every eligible convolution, and write the decision to its node's ``meta``.

    Convolutions that share a grouping are judged together: it pays, or not, for all of them at once. Where one of them
    is forced (``cost_model=False``) the grouping is there anyway, and each of the others is judged by itself.

    Args:
        gm: a graph that ``fuse_epilogue`` went over; only ``meta`` changes.
        config: which layers are eligible, and for which of them predictions decide.
        predict: the predictions; None: every eligible convolution becomes a HASTE convolution.
    """
    asked = [sharing for sharing in sharings(gm, config) if len(sharing.forced) < len(sharing.nodes)]
    if predict is None or not asked:
        return gm
    for sharing, predictions in zip(asked, predict(gm, asked), strict=True):
        together = pays(predictions)
        for node, prediction in zip(sharing.nodes, predictions, strict=True):
            alone = pays([prediction], grouped=True) if sharing.forced else together
            node.meta[CHOICE] = Choice(alone or node in sharing.forced, prediction)
    return gm


def pays(predictions: Sequence[Prediction], grouped: bool = False) -> bool:
    """Whether convolutions that share a grouping are worth it: faster in the best case and on natural images by more
    than the predictions are wrong. What wasn't predicted doesn't speak against it.

    Args:
        predictions: of each of them.
        grouped: the grouping is there anyway, and costs nothing.
    """
    dense = sum(prediction.dense_seconds for prediction in predictions)
    for limit, estimates in zip(_LIMITS, zip(*(p.estimates for p in predictions), strict=True), strict=True):
        known = [estimate for estimate in estimates if estimate is not None]
        if sum(e.seconds - (e.grouping if grouped else 0) for e in known) > limit * dense:
            return False
    return True


def _sharing_key(node: fx.Node, config: HasteConfig) -> tuple[Any, ...]:
    geometry = configured_geometry(node, config)
    windows = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.patch)
    # The configurations differ in nothing that matters here if they are equal but for who may take part.
    return node.args[0], windows, config.replace(min_channels=1, min_reads=0, cost_model=True)
