"""The attention of a graph, and where the tokens that it attends to go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, is_call, is_constant, is_tensor, shape_of
from haste_compiler.methods.tokens.follow import CannotFollowError, Counts, Layout, follow
from haste_compiler.methods.tokens.place import Place
from haste_compiler.ops.linear import LINEAR, LinearCall

aten = torch.ops.aten

ROWS = 3
"""Dimensions of tokens (B, N, C)."""

_TOKEN_BY_TOKEN = (aten.add.Tensor, aten.layer_norm.default, aten.mul.Tensor)
"""Operators that leave tokens in their places; of two, the one that the other is computed from goes on."""


class UnfitError(Exception):
    """An attention whose tokens can't merge; the message says why."""


@dataclass(frozen=True)
class Stream:
    """The tokens that go through the layers.

    Attributes:
        origin: where they come from; the same for all layers that the same tokens go through.
        fixed: how many of the first tokens are the same for every image, such as class and register tokens.
        join: (B, N, C), the sum of what attention reads and what became of it.
        key: the layout of the keys.
    """

    origin: fx.Node
    fixed: int
    join: fx.Node
    key: Layout


def attentions(gm: fx.GraphModule) -> Iterator[fx.Node]:
    """The attention of a graph, in order."""
    return (node for node in gm.graph.nodes if is_call(node, aten.scaled_dot_product_attention.default))


def rows_of(node: fx.Node) -> Layout:
    """The layout of tokens (B, N, C)."""
    return Layout(shape_of(node), Place(1), Place(0))


def check_batch(node: fx.Node) -> None:
    """Check that an attention is of a fixed number of images.

    Raises:
        UnfitError: it isn't.
    """
    if any(isinstance(size, torch.SymInt) for size in node.meta["val"].shape):
        raise UnfitError("the batch is dynamic, and tokens merge in batches of one size")


def stream_of(node: fx.Node) -> Stream:
    """Where the tokens of an attention go on.

    Raises:
        UnfitError: they don't, or not one by one.
    """
    source, join = _sum(node)
    images, keys, _ = shape_of(source)
    origin = _origin(source)
    fixed = _fixed_tokens(origin)
    counts = Counts(images, keys, keys, fixed)
    needed, layouts = ancestors(join), {source: rows_of(source)}
    for each in node.graph.nodes:
        if each in needed and any(read in layouts for read in each.all_input_nodes):
            try:
                layout = follow(each, layouts, counts).layout
            except CannotFollowError as error:
                raise UnfitError(str(error)) from None
            if layout is not None:
                layouts[each] = layout
    key: Any = node.args[1]
    if key not in layouts or layouts.get(join) != rows_of(join):
        raise UnfitError("its keys are not the tokens that go on")
    return Stream(origin, fixed, join, layouts[key])


def fixed_tokens(node: fx.Node) -> int:
    """How many of the first tokens that an attention reads are known to be the same for every image."""
    try:
        source, _ = _sum(node)
    except UnfitError:
        return 0
    return _fixed_tokens(_origin(source))


def _sum(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The first sum of what became of attention and tokens (B, N, C) that it was computed from: these, and the sum."""
    before, reached = ancestors(node), {node}
    for each in node.graph.nodes:
        if not any(read in reached for read in each.all_input_nodes):
            continue
        reached.add(each)
        for added in _added(each):
            if added in before and shape_of(added) == (shape := shape_of(each)):
                keys = shape_of(node.args[1])[-2]  # type: ignore[arg-type]
                if len(shape) != ROWS or shape[1] != keys:
                    raise UnfitError(f"the {keys} tokens that it attends to are not those that go on")
                return added, each
    raise UnfitError("what it returns is not added to the tokens that it reads")


def _added(node: fx.Node) -> list[fx.Node]:
    """What a node adds to something else."""
    if is_call(node, LINEAR):
        residual = LinearCall.of(node).residual
        return [] if residual is None else [residual]
    return [each for each in node.args if is_tensor(each)] if is_call(node, aten.add.Tensor) else []


def ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from."""
    found, open_nodes = {node}, [node]
    while open_nodes:
        for read in open_nodes.pop().all_input_nodes:
            if read not in found:
                found.add(read)
                open_nodes.append(read)
    return found


def _origin(source: fx.Node) -> fx.Node:
    """Where the tokens (B, N, C) that a layer reads come from, through the layers before it."""
    before: fx.Node | None = source
    while before is not None:
        source, before = before, _token_by_token(before)
    return source


def _fixed_tokens(origin: fx.Node) -> int:
    if not is_call(origin, aten.cat.default) or argument(origin, 1, "dim", 0) % ROWS != 1:
        return 0
    parts: Any = origin.args[0]
    return sum(shape_of(part)[1] for part in itertools.takewhile(_is_fixed, parts))


def _token_by_token(node: fx.Node) -> fx.Node | None:
    """What a node changes without moving tokens; None: nothing is known to be that."""
    if is_call(node, LINEAR):
        return LinearCall.of(node).residual
    if not is_call(node, *_TOKEN_BY_TOKEN):
        return None
    varying = [each for each in node.args[:2] if is_tensor(each) and not _is_fixed(each)]
    shortcuts = [each for each in varying if all(each in ancestors(other) for other in varying)]
    return shortcuts[0] if shortcuts else None


def _is_fixed(node: Any) -> bool:
    """Whether a value is computed from constants alone."""
    return is_constant(node) or all(each.op != "placeholder" for each in ancestors(node))
