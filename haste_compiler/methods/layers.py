"""The convolutions of a graph, and which method each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.prediction import CHOICE, Choice, Prediction

if TYPE_CHECKING:
    from torch import fx

    from haste_compiler.methods.configs import ConfigLike, Configs

OWNER = "method"
"""Where the ``meta`` of a node that took a layer's place keeps the name of the method that put it there."""


_LINEAR = 2
"""Dimensions of a linear layer's filters."""


@dataclass(frozen=True)
class ConvLayer:
    """One convolution of a graph.

    Attributes:
        name: qualified name of the layer.
        node: name of the graph's node.
        geometry: its shape, with the patch that the configuration asks for; None for what is no plain 2-d convolution.
        method: name of the method that takes it; None: it stays plain.
        reason: why, or why not.
        prediction: what the cost model says; None where it wasn't asked.
    """

    name: str
    node: str
    geometry: ConvGeometry | None
    method: str | None
    reason: str
    prediction: Prediction | None = None

    @property
    def eligible(self) -> bool:
        """Whether a method takes it."""
        return self.method is not None


def conv_layers(gm: fx.GraphModule, config: ConfigLike | Configs = None) -> list[ConvLayer]:
    """List the convolutions of a graph, before or after the methods' rewrites, in the order in which they run.

    Args:
        gm: a graph that ``capture`` or a pass returned; before ``extract_convs`` no convolution counts as eligible.
        config: decides; None: the default.
    """
    from haste_compiler.graph.nodes import CONVOLUTIONS, is_call, layer_name
    from haste_compiler.methods.configs import Configs
    from haste_compiler.ops.conv2d import CONV2D
    from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D

    configs = Configs.of(config)
    layers = []
    for node in gm.graph.nodes:
        if is_call(node, CONV2D) or _is_owned(node):
            layers.append(_judge(node, configs))
        elif is_call(node, *CONVOLUTIONS, CONV_TRANSPOSE2D):
            transposed = node.target is CONV_TRANSPOSE2D
            reason = "a transposed convolution" if transposed else "not a float32 2-d convolution with constant weights"
            layers.append(ConvLayer(layer_name(node), node.name, None, None, reason))
    return layers


def _is_owned(node: fx.Node) -> bool:
    """Whether a node took a convolution's place, not a linear layer's."""
    from haste_compiler.methods.registry import method

    owner = node.meta.get(OWNER)
    if owner is None:
        return False
    operator = getattr(node.target, "overloadpacket", None)
    place = method(owner).convolutions().get(operator)
    filters = None if place is None else node.args[place]
    return filters is None or filters.meta["val"].dim() > _LINEAR  # type: ignore[union-attr]


def _judge(node: fx.Node, configs: Configs) -> ConvLayer:
    from haste_compiler.graph.nodes import layer_name
    from haste_compiler.methods.registry import method
    from haste_compiler.ops.conv2d import CONV2D, ConvCall

    name, owner = layer_name(node), node.meta.get(OWNER)
    choice: Choice | None = node.meta.get(CHOICE)
    asked = [(each, each.judge(node, config.for_layer(name))) for each, config in configs if owner in (None, each.NAME)]
    verdicts = [(each, verdict) for each, verdict in asked if verdict is not None]
    if not verdicts:
        plain = ConvCall.of(node).geometry() if node.target is CONV2D else None
        return ConvLayer(name, node.name, plain, owner, "no method is asked" if owner is None else method(owner).TITLE)
    first = next(((each, v) for each, v in verdicts if v.eligible), verdicts[0])
    taken: str | None = first[0].NAME if first[1].eligible else None
    reason, prediction = first[1].reason, None
    if taken is None and len(verdicts) > 1:
        reason = "; ".join(f"{each.TITLE}: {verdict.reason}" for each, verdict in verdicts)
    if choice is not None and choice.prediction is not None:
        prediction = choice.prediction
        taken = choice.method if choice.taken else None
        asked_of = method(choice.method)
        reason = prediction.described(asked_of.TITLE, asked_of.MOST_TIME, choice.taken)
    return ConvLayer(name, node.name, first[1].geometry, taken, reason, prediction)
