"""Pieces of tensors, taken and joined: ``slice``, ``select``, ``index`` and ``cat``."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    add_tensor,
    argument,
    example_size,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    refuse_dynamic,
    replace,
    shape_of,
)
from haste_compiler.passes.canonicalize.rewrite import Rewrites, call, source_of

aten = torch.ops.aten


def _split(gm: fx.GraphModule, node: fx.Node) -> None:
    source = source_of(node)
    dim = argument(node, 2, "dim", 0) % len(shape_of(source))
    # Where the pieces start, and the last one's end.
    bounds = [0, *itertools.accumulate(example_size(value.shape[dim]) for value in node.meta["val"])]
    assert bounds[-1] == shape_of(source)[dim]

    def take(user: fx.Node, index: int) -> None:
        call(gm, user, aten.slice.Tensor, source, dim, bounds[index], bounds[index + 1])

    _take_apart(gm, node, take)


def _unbind(gm: fx.GraphModule, node: fx.Node) -> None:
    source = source_of(node)
    dim = argument(node, 1, "dim", 0) % len(shape_of(source))

    def take(user: fx.Node, index: int) -> None:
        call(gm, user, aten.select.int, source, dim, index)

    _take_apart(gm, node, take)


def _take_apart(gm: fx.GraphModule, node: fx.Node, take: Callable[[fx.Node, int], None]) -> None:
    """Let ``take`` write each reading of one piece, by the piece's number, instead of a call that returns them all."""
    users = list(node.users)
    if not all(is_call(user, operator.getitem) for user in users):
        return
    for user in users:
        index = user.args[1]
        assert isinstance(index, int)
        take(user, index % len(node.meta["val"]))
    gm.graph.erase_node(node)


def _slice(gm: fx.GraphModule, node: fx.Node) -> None:
    source = source_of(node)
    dim = argument(node, 1, "dim", 0) % len(shape_of(source))
    size, step = shape_of(source)[dim], argument(node, 4, "step", 1)
    start, end = argument(node, 2, "start"), argument(node, 3, "end")
    if isinstance(start, fx.Node) or isinstance(end, fx.Node):
        refuse_dynamic(node)
    start, end, _ = slice(start, end).indices(size)
    if (start, end, step) == (0, size, 1):
        replace(node, source)
    else:
        call(gm, node, aten.slice.Tensor, source, dim, start, end, step)


def _narrow(gm: fx.GraphModule, node: fx.Node) -> None:
    source, dim, start, length = node.args
    assert isinstance(source, fx.Node) and isinstance(dim, int)
    size = source.meta["val"].shape[dim]
    if not all(isinstance(number, int) for number in (start, length, size)):
        refuse_dynamic(node)
    assert isinstance(start, int) and isinstance(length, int)
    first = start % size if start < 0 else start
    call(gm, node, aten.slice.Tensor, source, dim % len(shape_of(source)), first, first + length)


def _select(gm: fx.GraphModule, node: fx.Node) -> None:
    source, dim, index = node.args
    assert isinstance(source, fx.Node) and isinstance(dim, int) and isinstance(index, int)
    shape = shape_of(source)
    dim %= len(shape)
    if index < 0 and isinstance(source.meta["val"].shape[dim], torch.SymInt):
        refuse_dynamic(node)
    if (dim, index) != (node.args[1], index % shape[dim]):
        call(gm, node, aten.select.int, source, dim, index % shape[dim])


def _index(gm: fx.GraphModule, node: fx.Node) -> None:
    source, indices = node.args
    assert isinstance(source, fx.Node) and isinstance(indices, (list, tuple))
    plain: list[Any] = []
    for axis, (size, index) in enumerate(zip(shape_of(source), indices, strict=False)):
        if is_tensor(index) and isinstance(source.meta["val"].shape[axis], torch.SymInt):
            refuse_dynamic(node)
        if is_constant(index) and bool((get_tensor(gm, index) < 0).any()):
            index = add_tensor(gm, f"{node.name}_index", get_tensor(gm, index) % size, node)
        elif is_tensor(index) and not is_constant(index) and index.meta["val"].dtype in (torch.int32, torch.int64):
            index = insert_call(gm, aten.remainder.Scalar, (index, size), node)
        plain.append(index)
    if plain != list(indices):
        call(gm, node, aten.index.Tensor, source, plain)


def _cat(gm: fx.GraphModule, node: fx.Node) -> None:
    tensors, rank = list(argument(node, 0, "tensors")), len(shape_of(node))
    if len(tensors) == 1:
        replace(node, tensors[0])
    elif all(len(shape_of(tensor)) == rank for tensor in tensors):
        call(gm, node, aten.cat.default, tensors, argument(node, 1, "dim", 0) % rank)


def _roll(gm: fx.GraphModule, node: fx.Node) -> None:
    """One piece behind the other along each dimension; what has no dimensions, or rolls images of a batch, stays."""
    x, shifts, dims = source_of(node), argument(node, 1, "shifts"), argument(node, 2, "dims", [])
    value = x.meta["val"]
    sizes = [value.shape[dim] for dim in dims]
    if not dims or value.dtype != torch.float32 or 0 in sizes or any(isinstance(size, torch.SymInt) for size in sizes):
        return
    for shift, dim, size in zip(shifts, dims, sizes, strict=True):
        start, axis = -shift % size, dim % value.dim()
        if start:
            ranges = ((start, size), (0, start))
            pieces = [insert_call(gm, aten.slice.Tensor, (x, axis, first, end, 1), node) for first, end in ranges]
            x = insert_call(gm, aten.cat.default, (pieces, axis), node)
    replace(node, x)


REWRITES: Rewrites = {
    aten.roll.default: _roll,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split.sizes: _split,
    aten.split_with_sizes.default: _split,
    aten.unbind.int: _unbind,
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    aten.cat.default: _cat,
    aten.concat.default: _cat,
    aten.concatenate.default: _cat,
}
