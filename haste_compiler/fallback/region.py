"""Regions: neighbouring operators that PyTorch runs in one call, with what they read and what they hand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.fallback.program import write
from haste_compiler.fallback.record import Fallback
from haste_compiler.graph.nodes import is_constant, is_size, layer_name, unsupported

aten = torch.ops.aten

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


@dataclass(frozen=True)
class Region:
    """A region of a graph, before it is written down.

    Attributes:
        fallback: what is called.
        inputs: the nodes that it reads.
        outputs: the nodes that it hands on, and whether each is stored as NHWC.
    """

    fallback: Fallback
    inputs: list[fx.Node]
    outputs: list[tuple[fx.Node, bool]]


IsNhwc = Callable[[fx.Node], bool]
"""Whether a node's tensor is stored as NHWC."""


def make_region(gm: fx.GraphModule, nodes: Sequence[fx.Node], is_nhwc: IsNhwc) -> Region:
    """Cut some nodes out of a graph.

    Args:
        gm: the graph.
        nodes: calls, in order; sizes that they read are computed anew from tensors that are read.
        is_nhwc: says it of tensors that other nodes made.

    Raises:
        UnsupportedOperatorError: a call can't be written down.
    """
    inside = set(nodes)
    members = _with_sizes(nodes)
    reads = dict.fromkeys(source for node in members for source in node.all_input_nodes if source not in set(members))
    inputs = [node for node in reads if not _is_graph(gm, node)]
    outputs = [node for node in nodes if _is_handed_on(node, inside)]
    for node in outputs:
        if node.meta["val"].is_complex():
            raise unsupported(node, "kernels and outputs of a compiled network have no complex numbers")
    formats = _formats(members, inputs, is_nhwc)
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    stored = [graph.placeholder(node.name) for node in inputs]
    for node, source in zip(inputs, stored, strict=True):
        copies[node] = graph.call_function(aten.permute.default, (source, _TO_NCHW)) if is_nhwc(node) else source
        if is_raw(node):
            copies[node] = graph.call_function(aten.view.dtype, (source, torch.bfloat16))
    for node in reads:
        if node not in copies:
            copies[node] = graph.get_attr(str(node.target))
    for node in members:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    results = []
    for node in outputs:
        last = formats.get(node, False)
        results.append(graph.call_function(aten.permute.default, (copies[node], _TO_NHWC)) if last else copies[node])
    graph.output(tuple(results))
    fallback = Fallback(layer_name(nodes[0]), write(graph, gm))
    return Region(fallback, inputs, [(node, formats.get(node, False)) for node in outputs])


def is_raw(node: fx.Node) -> bool:
    """Whether a node is a constant of bfloat16, which NumPy doesn't know: it is kept as bits, int16."""
    return is_constant(node) and bool(node.meta["val"].dtype == torch.bfloat16)


def _with_sizes(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """The nodes, and before each the calls that compute the sizes it reads."""
    found: dict[fx.Node, None] = {}

    def add(node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if is_size(source):
                add(source)
        found[node] = None

    for node in nodes:
        add(node)
    return list(found)


def _is_graph(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node reads another graph, such as a branch of ``torch.cond``."""
    return node.op == "get_attr" and isinstance(getattr(gm, str(node.target).split(".")[0], None), fx.GraphModule)


def _is_handed_on(node: fx.Node, inside: set[fx.Node]) -> bool:
    return isinstance(node.meta.get("val"), Tensor) and any(user not in inside for user in node.users)


def _formats(members: Sequence[fx.Node], inputs: Sequence[fx.Node], is_nhwc: IsNhwc) -> dict[fx.Node, bool]:
    """Which results PyTorch's kernels leave in channels_last order, given inputs as they are stored."""
    if not any(map(is_nhwc, inputs)):
        return {}
    values: dict[fx.Node, Any] = {}
    for node in inputs:
        value = node.meta["val"]
        values[node] = value
        if is_nhwc(node):
            with torch.no_grad(), value.fake_mode:
                values[node] = torch.empty_like(value, memory_format=torch.channels_last)

    def known(node: fx.Node) -> Any:
        return values[node] if node in values else node.meta["val"]

    try:
        for node in members:
            args, kwargs = fx.map_arg(node.args, known), fx.map_arg(node.kwargs, known)
            with torch.no_grad(), inputs[0].meta["val"].fake_mode:
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:
        # A call that can't be traced again is given results as their shapes say.
        return {}
    return {node: _is_channels_last(values[node]) for node in members}


def _is_channels_last(value: Any) -> bool:
    """Whether a tensor lies in channels_last order, and only in that one."""
    if not isinstance(value, Tensor) or value.dim() != 4 or value.dtype != torch.float32:
        return False
    if any(isinstance(size, torch.SymInt) for size in value.shape[1:]):
        return False
    channels, height, width = value.shape[1:]
    return channels > 1 and height * width > 1 and value.stride()[1:] == (1, width * channels, channels)
