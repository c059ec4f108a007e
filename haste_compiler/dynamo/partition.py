"""Which parts of a graph our compiler takes: convex, connected, with a convolution in each."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from haste_compiler.graph.algorithms import alternations, components
from haste_compiler.graph.nodes import argument, is_call, is_tensor
from haste_compiler.runtime.device import CARD

aten = torch.ops.aten

_CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar)
_POOLING = (aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default)
_RESIZING = (aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec)
_NORMS = (aten.layer_norm.default, aten.group_norm.default)
_ACTIVATIONS = (
    aten.clamp.default,
    aten.elu.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.tanh.default,
)
_MOVEMENT = (
    aten.alias.default,
    aten.chunk.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.unbind.int,
    aten.unsqueeze.default,
    aten.view.default,
    operator.getitem,
)
_PLAIN = (*_ARITHMETIC, *_POOLING, *_RESIZING, *_NORMS, *_MOVEMENT, *_ACTIVATIONS)

_DEVICES = {torch.device("cpu"), torch.device("cuda", CARD)}
"""Where tensors may be: each region's are in one place."""


@dataclass(frozen=True)
class Plan:
    """A graph cut into regions and the rest.

    Attributes:
        regions: for each region its nodes, in order.
        constants: nodes that depend on constants only; a region has its own copies of those that it reads.
        whole: whether a single region is all that there is.
    """

    regions: list[list[fx.Node]]
    constants: set[fx.Node]
    whole: bool


def find_regions(gm: fx.GraphModule, fixed: Iterable[fx.Node], least_macs: int) -> Plan:
    """Find the parts of a traced graph that our compiler takes.

    A node's level says how often a path from the inputs to it changes between what we take and what we don't, at most:
    nodes of one level that we take form a convex set, and of each set the connected parts are the regions.

    Args:
        gm: what ``trace`` returned.
        fixed: placeholders that are parameters or buffers.
        least_macs: a region with fewer multiply-adds isn't worth its call.
    """
    nodes = list(gm.graph.nodes)
    constants = _constants(nodes, fixed)
    calls = [node for node in nodes if node.op == "call_function" and node not in constants and _is_value(node)]
    taken = {node for node in calls if _takes(node, constants)}
    level = alternations(calls, taken)
    by_level: dict[int, list[fx.Node]] = defaultdict(list)
    for node in calls:
        if node in taken:
            by_level[level[node]].append(node)
    regions = []
    for members in by_level.values():
        for part in components(members if len(members) == len(calls) else _trimmed(members)):
            if any(is_call(node, *_CONVOLUTIONS) for node in part) and _macs(part) >= least_macs:
                regions.append(part)
    return Plan(regions, constants, len(regions) == 1 and len(regions[0]) == len(calls))


def _is_value(node: fx.Node) -> bool:
    """Whether a node's value is made of tensors, not of sizes."""
    value = node.meta.get("val")
    return isinstance(value, (Tensor, list, tuple)) or value is None


def _constants(nodes: Iterable[fx.Node], fixed: Iterable[fx.Node]) -> set[fx.Node]:
    constants = set(fixed)
    for node in nodes:
        if node.op == "call_function" and node.all_input_nodes and isinstance(node.target, torch._ops.OpOverload):
            seeded = torch.Tag.nondeterministic_seeded in node.target.tags
            if not seeded and all(source in constants for source in node.all_input_nodes):
                constants.add(node)
    return constants


def _takes(node: fx.Node, constants: set[fx.Node]) -> bool:
    """Whether our compiler takes a call, and well enough that it may be faster."""
    value = node.meta.get("val")
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 for tensor in values):
        return False
    sources = [source for source in node.all_input_nodes if is_tensor(source)]
    places = {tensor.device for tensor in [*values, *(source.meta["val"] for source in sources)]}
    if len(places) != 1 or not places <= _DEVICES:
        return False
    if is_call(node, *_CONVOLUTIONS):
        x, weight, bias = (argument(node, i, name) for i, name in enumerate(("input", "weight", "bias")))
        return x not in constants and weight in constants and (bias is None or bias in constants)
    if is_call(node, aten.linear.default):
        weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
        return weight in constants and (bias is None or bias in constants)
    if is_call(node, aten.batch_norm.default):
        known = all(value is None or value in constants for value in node.args[1:5])
        return known and not argument(node, 5, "training") and argument(node, 3, "running_mean") is not None
    if is_call(node, aten.cat.default):
        tensors = node.args[0]
        assert isinstance(tensors, (list, tuple))
        # Channels of images, or tokens.
        return argument(node, 1, "dim", 0) in (1, 1 - _rank(node)) and {3, 4}.issuperset(map(_rank, tensors))
    if is_call(node, aten.mean.dim):
        dims = argument(node, 1, "dim")
        return dims is not None and _rank(node.args[0]) == 4 and sorted(dim % 4 for dim in dims) == [2, 3]
    if is_call(node, aten.layer_norm.default):
        # Over all dimensions it would mix the images of a batch.
        return len(node.args[1]) < _rank(node.args[0])  # type: ignore[arg-type]
    if is_call(node, aten.softmax.int):
        # Along the rows; over the first dimension it would mix the images of a batch.
        return _rank(node) > 1 and argument(node, 1, "dim") in (-1, _rank(node) - 1)
    if is_call(node, aten.matmul.default, aten.bmm.default):
        return not constants.intersection(sources) and _same_leading(sources)
    if is_call(node, aten.scaled_dot_product_attention.default):
        options = ((3, "attn_mask"), (4, "dropout_p"), (5, "is_causal"), (7, "enable_gqa"))
        return not any(argument(node, *option) for option in options) and _same_leading(sources)
    if is_call(node, aten.pad.default, aten.constant_pad_nd.default):
        mode = argument(node, 2, "mode", "constant") if is_call(node, aten.pad.default) else "constant"
        return mode == "constant"
    return is_call(node, *_PLAIN)


def _same_leading(nodes: Iterable[fx.Node]) -> bool:
    """Whether matrices are stacked in the same way, in one dimension at least."""
    first, *others = (node.meta["val"].shape[:-2] for node in nodes)
    return len(first) > 0 and all(
        len(first) == len(other) and all(statically_known_true(a == b) for a, b in zip(first, other, strict=True))
        for other in others
    )


def _rank(node: Any) -> int:
    return node.meta["val"].dim() if is_tensor(node) else 0


def _trimmed(members: list[fx.Node]) -> list[fx.Node]:
    """Without what only moves values about where the set begins or ends: Inductor does that on its way."""
    inside = set(members)
    for order, neighbours in (
        (reversed(members), lambda node: node.users),
        (members, lambda node: node.all_input_nodes),
    ):
        for node in order:
            if is_call(node, *_MOVEMENT) and inside.isdisjoint(neighbours(node)):
                inside.discard(node)
    for node in members:
        # What picks from a call of several results stays with the call.
        if is_call(node, operator.getitem) and node.args[0] in inside:
            inside.add(node)
    return [node for node in members if node in inside]


def _macs(nodes: Iterable[fx.Node]) -> int:
    """Multiply-adds of a region's convolutions, at the sizes that the graph was traced with."""
    total = 0
    for node in nodes:
        if is_call(node, *_CONVOLUTIONS):
            weight = argument(node, 1, "weight").meta["val"]
            total += _hint(node.meta["val"].numel()) * _hint(weight.numel()) // _hint(weight.shape[0])
    return total


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
