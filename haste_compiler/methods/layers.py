"""The convolutions of a graph, and which of them become HASTE convolutions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import fx

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import CONVOLUTIONS, argument, is_call, is_constant, layer_name, shape_of
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.ops.convolve import CONVOLVE
from haste_compiler.ops.conv2d import CONV2D

aten = torch.ops.aten


CHOICE = "haste_choice"
"""Where a convolution node's ``meta`` keeps its ``Choice``."""


@dataclass(frozen=True)
class Estimate:
    """What a HASTE convolution is expected to take on some kind of input.

    Attributes:
        seconds: time of one call. Of layers that share a grouping the first bears the grouping's.
        grouping: the part of it that hashing and grouping take.
        kept: share of the channels that is left.
    """

    seconds: float
    grouping: float
    kept: float


@dataclass(frozen=True)
class Prediction:
    """What the cost model says of one convolution.

    Attributes:
        dense_seconds: time of one call as a dense convolution.
        best: as a HASTE convolution of which next to nothing is left.
        natural: on images like photographs; None where the best case isn't worth it.
        gate: what a patch may cost on average beyond a fixed part, then what each unit of its counts costs (singles,
            groups, members, zeros, flats, merges), in microseconds: the compiled layer compares the two at every call.
    """

    dense_seconds: float
    best: Estimate
    natural: Estimate | None = None
    gate: tuple[float, ...] = ()

    @property
    def estimates(self) -> tuple[Estimate | None, ...]:
        """Both, in the order in which they are asked for."""
        return self.best, self.natural

    def __str__(self) -> str:
        """In words, for a layer's reason."""
        found = self.natural or self.best
        share = f"{found.kept:.0%} kept" if self.natural else f"only {found.kept:.0%} kept"
        return f"predicted {_time(self.dense_seconds)} dense, {_time(found.seconds)} HASTE at {share}"


@dataclass(frozen=True)
class Choice:
    """What was decided for a convolution, and by which prediction."""

    haste: bool
    prediction: Prediction


@dataclass(frozen=True)
class ConvLayer:
    """One convolution of a graph.

    Attributes:
        name: qualified name of the layer.
        node: name of the graph's node.
        geometry: its shape, with the patch that the configuration asks for; None for what is no plain 2-d convolution.
        eligible: whether the configuration turns it into a HASTE convolution.
        reason: why, or why not.
        prediction: what the cost model says; None where it wasn't asked.
    """

    name: str
    node: str
    geometry: ConvGeometry | None
    eligible: bool
    reason: str
    prediction: Prediction | None = None


def conv_layers(gm: fx.GraphModule, config: HasteConfig | None = None) -> list[ConvLayer]:
    """List the convolutions of a graph, before or after ``rewrite_haste``, in the order in which they run.

    Args:
        gm: a graph that ``capture`` or a pass returned; before ``extract_convs`` no convolution counts as eligible.
        config: decides; None: the default.
    """
    config = config or HasteConfig()
    layers = []
    for node in gm.graph.nodes:
        if is_call(node, CONV2D, CONVOLVE):
            layers.append(_judge(node, config.for_layer(layer_name(node))))
        elif is_call(node, *CONVOLUTIONS):
            reason = "not a float32 2-d convolution with constant weights"
            layers.append(ConvLayer(layer_name(node), node.name, None, False, reason))
    return layers


def conv_geometry(node: fx.Node, patch: tuple[int, int]) -> ConvGeometry:
    """The geometry of a ``haste::conv2d`` or ``haste::convolve`` node.

    Args:
        node: the call.
        patch: patch height and width asked for.
    """
    if is_call(node, CONV2D):
        x, weight, _, _, stride, padding, dilation, groups, _ = node.args
        assert isinstance(x, fx.Node)
        channels, size = shape_of(x)[1], shape_of(x)[2:]
    else:
        _, slot, _, _, weight, _, _, size, stride, padding, dilation, groups, *_ = node.args  # type: ignore[assignment]
        assert isinstance(slot, fx.Node)
        channels = shape_of(slot)[-1]
    assert isinstance(weight, fx.Node)
    filters, _, *kernel = shape_of(weight)
    numbers = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups, tuple(size))  # type: ignore[arg-type]
    return ConvGeometry(channels, filters, *numbers, patch)  # type: ignore[arg-type]


def configured_geometry(node: fx.Node, config: HasteConfig) -> ConvGeometry:
    """The geometry of a convolution node with the patch that its layer's configuration asks for."""
    geometry = conv_geometry(node, (1, 1))
    return dataclasses.replace(geometry, patch=config.patch_for(geometry.output_size))


def may_merge(node: fx.Node) -> bool:
    """Whether a configuration could make a ``haste::conv2d`` a HASTE convolution: constant weights, not depthwise."""
    weight = argument(node, 1, "weight")
    return is_constant(weight) and shape_of(weight)[1] > 1


def _judge(node: fx.Node, config: HasteConfig) -> ConvLayer:
    geometry, choice = configured_geometry(node, config), node.meta.get(CHOICE)
    eligible, reason = (True, "HASTE") if is_call(node, CONVOLVE) else _eligible(geometry, config)
    if choice is not None:
        eligible, reason = choice.haste, str(choice.prediction)
    return ConvLayer(layer_name(node), node.name, geometry, eligible, reason, choice and choice.prediction)


def _eligible(geometry: ConvGeometry, config: HasteConfig) -> tuple[bool, str]:
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


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e3:.3f} ms"
