"""A network as its layers, and which of them reads what from which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import networkx as nx
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.products import operator_macs_of
from haste_compiler.methods.replay import deferred_operators, is_layer

INPUT, OUTPUT = "input", "output"
"""The nodes of a graph that are no layers."""

_FLOAT = 4


@dataclass(frozen=True)
class LayerNode:
    """A layer in the graph.

    Attributes:
        name: qualified name; of products of activations their module's and ``matmul``.
        layer: the name that its kernels go by.
        kind: "conv", "linear", "matmul", "pool", or the operator's name.
        shape: of what it returns.
        macs: multiply-adds of the rewritten graph's node, before what is decided at run time.
        filter_bytes: of its constants, in float32.
        image_bytes: of what it reads and writes.
    """

    name: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    filter_bytes: int
    image_bytes: int


def layer_graph(gm: fx.GraphModule) -> nx.DiGraph:
    """The layers of a rewritten graph and the data flow among them; what is computed between two layers is an edge.

    Of a layer that is several nodes, such as attention that merges tokens, the first that multiplies stands for it.

    Args:
        gm: a graph that ``run_passes`` returned.

    Returns:
        A graph of names, whose nodes have ``layer``, a ``LayerNode``, but for ``INPUT`` and ``OUTPUT``.
    """
    graph = nx.DiGraph()
    origins: dict[fx.Node, dict[str, None]] = {}
    boxes = _boxes(gm)
    for node in gm.graph.nodes:
        sources = dict.fromkeys(origin for source in node.all_input_nodes for origin in origins.get(source, ()))
        if node.op == "placeholder":
            graph.add_node(INPUT)
            origins[node] = {INPUT: None}
            continue
        own = boxes.get(node)
        if node.op == "output" or own is not None:
            name = OUTPUT if own is None else own.name
            graph.add_node(name, **({} if own is None else {"layer": own}))
            graph.add_edges_from((source, name) for source in sources)
            origins[node] = {name: None}
        else:
            origins[node] = sources
    return graph


def _boxes(gm: fx.GraphModule) -> dict[fx.Node, LayerNode]:
    """The nodes that stand for layers: one for each name."""
    deferred = deferred_operators()
    found: dict[str, tuple[fx.Node, LayerNode]] = {}
    for node in gm.graph.nodes:
        own = None if node.op != "call_function" or node.target in deferred else _layer(node)
        if own is not None and (own.layer not in found or (own.macs and not found[own.layer][1].macs)):
            found[own.layer] = (node, own)
    return dict(found.values())


def _layer(node: fx.Node) -> LayerNode | None:
    """A node as a layer; None: it is none."""
    counted = operator_macs_of(node)
    if counted is None and not is_layer(node):
        return None
    shape = next((tuple(map(int, leaf.shape)) for leaf in tree_leaves(node.meta["val"])), ())
    kind = counted.kind if counted is not None else node.meta.get(OWNER) or "pool"
    constants = [source for source in node.all_input_nodes if source.op == "get_attr"]
    images = [source for source in node.all_input_nodes if source.op != "get_attr"]
    return LayerNode(
        layer_name(node) if counted is None else counted.layer,
        layer_name(node),
        kind,
        shape,
        0 if counted is None else counted.macs,
        sum(map(_bytes, constants)),
        sum(map(_bytes, images)) + _FLOAT * math.prod(shape),
    )


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return _FLOAT * value.numel() if isinstance(value, Tensor) else 0
