"""Largest and mean values: ``max_pool2d`` without positions, and ``mean`` over dimensions that are named."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, insert_call, reshape_sizes, shape_of
from haste_compiler.passes.canonicalize.rewrite import Rewrites, call, call_for_first, source_of

aten = torch.ops.aten


def _max_pool(gm: fx.GraphModule, node: fx.Node) -> None:
    call_for_first(gm, node, aten.max_pool2d.default, *node.args)


def _adaptive_max_pool(gm: fx.GraphModule, node: fx.Node) -> None:
    """A max pooling, where the input's size is a multiple of the output's and nobody asks for positions."""
    source = source_of(node)
    pairs = list(zip(shape_of(source)[-2:], node.meta["val"][0].shape[-2:], strict=True))
    if not any(size % new for size, new in pairs):
        call_for_first(gm, node, aten.max_pool2d.default, source, [size // new for size, new in pairs])


def _amax(gm: fx.GraphModule, node: fx.Node) -> None:
    """Over height and width of (N, C, H, W): a max pooling."""
    source = source_of(node)
    rank = len(shape_of(source))
    if rank == 4 and sorted(dim % rank for dim in argument(node, 1, "dim", ())) == [2, 3]:
        pooled = insert_call(gm, aten.max_pool2d.default, (source, list(shape_of(source)[2:])), node)
        call(gm, node, aten.reshape.default, pooled, reshape_sizes(node))


def _mean(gm: fx.GraphModule, node: fx.Node) -> None:
    source = source_of(node)
    if argument(node, 3, "dtype") is not None:
        return
    rank = len(shape_of(source))
    dims = argument(node, 1, "dim") if node.target is aten.mean.dim else None
    dims = sorted(dim % rank for dim in dims) if dims else list(range(rank))
    call(gm, node, aten.mean.dim, source, dims, bool(argument(node, 2, "keepdim", False)))


REWRITES: Rewrites = {
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.amax.default: _amax,
    aten.mean.dim: _mean,
    aten.mean.default: _mean,
}
