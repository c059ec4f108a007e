"""The convolutions of a graph, the linear layers and attention that methods judge, and which method each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """One convolution of a graph, or a linear layer or attention that a method judges.

    Attributes:
        name: qualified name of the layer.
        node: name of the graph's node.
        geometry: its shape, with the patch that the configuration asks for; None for what is no plain 2-d convolution.
        method: name of the method that takes it; None: it stays plain.
        reason: why, or why not.
        prediction: what the cost model says; None where it wasn't asked.
        kind: "conv", "linear" or "attention".
        setting: how the method computes it, as the method reads it.
    """

    name: str
    node: str
    geometry: ConvGeometry | None
    method: str | None
    reason: str
    prediction: Prediction | None = None
    kind: str = "conv"
    setting: Any = None

    @property
    def eligible(self) -> bool:
        """Whether a method takes it."""
        return self.method is not None

    @property
    def arithmetic(self) -> str:
        """The format that it multiplies in: "float32", "bfloat16", "int8" or another of ``energy``'s table."""
        from haste_compiler.methods.registry import method

        return "float32" if self.method is None else method(self.method).arithmetic(self.setting)


def conv_layers(gm: fx.GraphModule, config: ConfigLike | Configs = None) -> list[ConvLayer]:
    """List the convolutions of a graph, before or after the methods' rewrites, in the order in which they run, and the
    linear layers and attention that one of the configured methods has to say something of.

    Args:
        gm: a graph that ``capture`` or a pass returned; before ``extract_convs`` no convolution counts as eligible.
        config: decides; None: the default.
    """
    from haste_compiler.graph.nodes import CONVOLUTIONS, is_call, layer_name
    from haste_compiler.methods.configs import Configs
    from haste_compiler.ops.conv2d import CONV2D
    from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D
    from haste_compiler.ops.linear import LINEAR

    configs = Configs.of(config)
    layers = []
    for node in gm.graph.nodes:
        if is_call(node, CONV2D, LINEAR, _scaled_dot_product_attention()) or OWNER in node.meta:
            layers.append(_judge(node, configs))
        elif is_call(node, *CONVOLUTIONS, CONV_TRANSPOSE2D):
            transposed = node.target is CONV_TRANSPOSE2D
            reason = "a transposed convolution" if transposed else "not a float32 2-d convolution with constant weights"
            layers.append(ConvLayer(layer_name(node), node.name, None, None, reason))
    return [layer for layer in layers if layer is not None]


def _scaled_dot_product_attention() -> Any:
    import torch

    return torch.ops.aten.scaled_dot_product_attention.default


def product_kind(node: fx.Node) -> str:
    """Whether a layer, plain or a method's, is a convolution, "conv", or "linear": by the dimensions of its filters."""
    from haste_compiler.methods.registry import product_operators
    from haste_compiler.ops.linear import LINEAR

    if node.target is LINEAR:
        return "linear"
    place = product_operators().get(getattr(node.target, "overloadpacket", None))
    filters: Any = None if place is None else node.args[place]
    return "linear" if filters is not None and filters.meta["val"].dim() == _LINEAR else "conv"


def _layer_kind(node: fx.Node) -> str:
    """As ``product_kind``; what has no filters is attention, or a method's call in its place or behind it."""
    from haste_compiler.methods.registry import product_operators
    from haste_compiler.ops.conv2d import CONV2D
    from haste_compiler.ops.linear import LINEAR

    has_filters = node.target in (CONV2D, LINEAR) or getattr(node.target, "overloadpacket", None) in product_operators()
    return product_kind(node) if has_filters else "attention"


def _judge(node: fx.Node, configs: Configs) -> ConvLayer | None:
    """What the methods say of a layer; None: it is no convolution, and they say nothing."""
    from haste_compiler.graph.nodes import layer_name
    from haste_compiler.methods.registry import method
    from haste_compiler.ops.conv2d import CONV2D, ConvCall

    name, owner = layer_name(node), node.meta.get(OWNER)
    choice: Choice | None = node.meta.get(CHOICE)
    asked = [(each, each.judge(node, config.for_layer(name))) for each, config in configs if owner in (None, each.NAME)]
    verdicts = [(each, verdict) for each, verdict in asked if verdict is not None]
    kind = _layer_kind(node)
    if not verdicts and kind != "conv":
        return None
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
    return ConvLayer(name, node.name, first[1].geometry, taken, reason, prediction, kind, first[1].setting)
