"""All elements in another shape or order: ``reshape`` and ``permute``."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, is_call, refuse_dynamic, replace, reshape_sizes, shape_of
from haste_compiler.passes.canonicalize.rewrite import Rewrites, call, source_of

aten = torch.ops.aten


def _reshape(gm: fx.GraphModule, node: fx.Node) -> None:
    # The shape is fixed, but for a dynamic batch: -1 is written out. A view may not be possible any more where a copy
    # was dropped.
    sizes = reshape_sizes(node)
    if sizes.count(-1) > 1:
        refuse_dynamic(node)
    call(gm, node, aten.reshape.default, source_of(node), sizes)


def _transpose(gm: fx.GraphModule, node: fx.Node) -> None:
    source = source_of(node)
    order = list(range(len(shape_of(source))))
    first, second = (argument(node, 1, "dim0"), argument(node, 2, "dim1")) if len(node.args) > 1 else (0, 1)
    if len(order) > 1:
        order[first], order[second] = order[second], order[first]
    _permuted(gm, node, source, order)


def _permute(gm: fx.GraphModule, node: fx.Node) -> None:
    rank = len(shape_of(node))
    _permuted(gm, node, source_of(node), [dim % rank for dim in argument(node, 1, "dims")])


def _permuted(gm: fx.GraphModule, node: fx.Node, source: fx.Node, order: list[int]) -> None:
    """Take ``source`` in the order of ``order`` instead of ``node``; two permutations in a row become one."""
    rank = len(order)
    if is_call(source, aten.permute.default):
        inner = [dim % rank for dim in argument(source, 1, "dims")]
        source, order = source_of(source), [inner[dim] for dim in order]
    if order == list(range(rank)):
        replace(node, source)
    else:
        call(gm, node, aten.permute.default, source, order)


REWRITES: Rewrites = {
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.view_as.default: _reshape,
    aten.reshape_as.default: _reshape,
    aten.unflatten.int: _reshape,
    aten.transpose.int: _transpose,
    aten.swapaxes.default: _transpose,
    aten.t.default: _transpose,
    aten.permute.default: _permute,
}
