"""Attention: a scale of its own is a factor of the query."""

from __future__ import annotations

import math

import torch
from torch import fx

from haste_compiler.graph.nodes import insert_call, shape_of
from haste_compiler.passes.canonicalize.rewrite import Rewrites, source_of

aten = torch.ops.aten


def _attention(gm: fx.GraphModule, node: fx.Node) -> None:
    scale, query = node.kwargs.get("scale"), source_of(node)
    if scale is None:
        return
    assert isinstance(scale, (int, float))
    scaled = insert_call(gm, aten.mul.Tensor, (query, scale * math.sqrt(shape_of(query)[-1])), node)
    node.args = (scaled, *node.args[1:])
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "scale"}


REWRITES: Rewrites = {
    aten.scaled_dot_product_attention.default: _attention,
}
