"""Which operators compute the same of fewer tokens, and where the tokens are in what they return.

A rule takes a node whose tensors had N tokens, and returns what it is of M: its arguments, and where its tokens are. An
operator without a rule needs all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, is_tensor, layer_name, shape_of
from haste_compiler.methods.tokens.place import Place
from haste_compiler.ops.linear import LINEAR

aten = torch.ops.aten


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a tensor are.

    Attributes:
        shape: the tensor's, of all N tokens.
        tokens: their place.
        images: the images' place; None where they can't be told apart any more.
    """

    shape: tuple[int, ...]
    tokens: Place
    images: Place | None

    @property
    def from_end(self) -> int:
        """The tokens' axis, counted from the last, which is 1."""
        return len(self.shape) - self.tokens.axis


@dataclass(frozen=True)
class Counts:
    """How many there are.

    Attributes:
        images: in a batch.
        before: tokens of an image in the network as it is written.
        after: those that are left.
        protected: of the first tokens, which never merge.
    """

    images: int
    before: int
    after: int
    protected: int

    def scaled(self, length: int) -> int:
        """The length of an axis that the tokens are a factor of, after merging."""
        return length // self.before * self.after


@dataclass(frozen=True)
class Followed:
    """What a node is of fewer tokens.

    Attributes:
        layout: of its value; None: its value has the shape that it had.
        args: its positional arguments.
    """

    layout: Layout | None
    args: tuple[Any, ...]


class CannotFollowError(Exception):
    """A node needs all tokens; the message says why."""


Layouts = Mapping[fx.Node, Layout]
Rule = Callable[[fx.Node, Layouts, Counts], Followed]


def follow(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    """What a node is of fewer tokens.

    Args:
        node: reads some tensors of fewer tokens; its own value is still of all.
        layouts: of those tensors.
        counts: of tokens.

    Raises:
        CannotFollowError: it needs all of them.
    """
    target: Any = node.target
    rule = RULES.get(target) if node.op == "call_function" else None
    if rule is None and torch.Tag.pointwise in getattr(target, "tags", ()):
        rule = _each_value
    if rule is None or not is_tensor(node) or 0 in shape_of(node):
        raise _cannot(node, "needs all tokens")
    return rule(node, layouts, counts)


def _cannot(node: fx.Node, why: str) -> CannotFollowError:
    name = "the network's output" if node.op == "output" else f"{node.target} of {layer_name(node)}"
    return CannotFollowError(f"{name} {why}")


def _each_value(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    """Value by value, of tensors that are spread to a common shape."""
    return Followed(_aligned(node, node.all_input_nodes, layouts), node.args)


def _aligned(node: fx.Node, inputs: Sequence[fx.Node], layouts: Layouts) -> Layout:
    """The layout of a value whose axes are those of its inputs, counted from the last."""
    known = [layouts[each] for each in inputs if each in layouts]
    first, shape = known[0], shape_of(node)
    moved = len(shape) - len(first.shape)
    for each in inputs:
        if each in layouts:
            own = layouts[each]
            same = own.tokens.moved(len(shape) - len(own.shape)) == first.tokens.moved(moved)
            if not same or own.shape[own.tokens.axis] != first.shape[first.tokens.axis]:
                raise _cannot(node, "meets tokens at different places")
        elif is_tensor(each):
            sizes = shape_of(each)
            if len(sizes) >= first.from_end and sizes[-first.from_end] != 1:
                raise _cannot(node, "is told tokens by their place")
    if shape[-first.from_end] != first.shape[first.tokens.axis]:
        raise _cannot(node, "spreads tokens over others")
    images = [layouts[each].images for each in inputs if each in layouts and layouts[each].shape == shape]
    return Layout(shape, first.tokens.moved(moved), images[0] if images else None)


def _linear(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    x, weight, bias, residual, _ = node.args
    if not isinstance(x, fx.Node) or x not in layouts or {weight, bias} & layouts.keys():
        raise _cannot(node, "multiplies tokens of which there are fewer by others")
    own = layouts[x]
    if own.from_end == 1:
        raise _cannot(node, "adds tokens up")
    layout = Layout(shape_of(node), own.tokens, own.images)
    if isinstance(residual, fx.Node):
        met = layouts.get(residual)
        if met is None or (met.tokens, met.shape) != (layout.tokens, layout.shape):
            raise _cannot(node, "adds tokens that did not merge")
    return Followed(layout, node.args)


def _layer_norm(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    normalized: Any = argument(node, 1, "normalized_shape")
    return _one_input(node, layouts, lambda own: own.from_end > len(normalized), "takes means over tokens")


def _softmax(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    dim: Any = argument(node, 1, "dim")
    return _one_input(node, layouts, lambda own: dim % len(own.shape) != own.tokens.axis, "takes sums over tokens")


def _one_input(node: fx.Node, layouts: Layouts, fits: Callable[[Layout], bool], why: str) -> Followed:
    """Of a node whose value has its first argument's layout."""
    (own,) = (layouts[each] for each in node.all_input_nodes if each in layouts)
    if node.args[0] not in layouts or not fits(own):
        raise _cannot(node, why)
    return Followed(Layout(shape_of(node), own.tokens, own.images), node.args)


def _mean(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    own = layouts[node.all_input_nodes[0]]
    dims: Any = argument(node, 1, "dim")
    gone = {dim % len(own.shape) for dim in dims or range(len(own.shape))}
    images = own.images
    if own.tokens.axis in gone or (images is not None and images.axis in gone):
        raise _cannot(node, "takes the mean of tokens")
    if argument(node, 2, "keepdim", False):
        return Followed(Layout(shape_of(node), own.tokens, images), node.args)
    moved = [each and each.moved(-sum(dim < each.axis for dim in gone)) for each in (own.tokens, images)]
    assert moved[0] is not None
    return Followed(Layout(shape_of(node), moved[0], moved[1]), node.args)


def _reshape(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    layout = _reshaped(node, layouts, counts)
    x, sizes = node.args[0], list(argument(node, 1, "shape") or ())
    axis = layout.tokens.axis
    if not isinstance(sizes[axis], int):
        raise _cannot(node, "has a shape that depends on the batch")
    if sizes[axis] != -1:
        sizes[axis] = counts.scaled(sizes[axis])
    return Followed(layout, (x, sizes))


def _view(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    """Another shape of the same values, that the arguments don't spell out."""
    return Followed(_reshaped(node, layouts, counts), node.args)


def _reshaped(node: fx.Node, layouts: Layouts, counts: Counts) -> Layout:
    own, shape = layouts[node.all_input_nodes[0]], shape_of(node)
    tokens = own.tokens.reshaped(counts.before, own.shape, shape)
    if tokens is None:
        raise _cannot(node, "takes tokens apart by their place")
    images = None if own.images is None else own.images.reshaped(counts.images, own.shape, shape)
    return Layout(shape, tokens, images)


def _permute(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    own, dims = layouts[node.all_input_nodes[0]], argument(node, 1, "dims")
    images = None if own.images is None else own.images.permuted(dims)
    return Followed(Layout(shape_of(node), own.tokens.permuted(dims), images), node.args)


def _select(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    """One place of an axis; of the tokens' axis one that never merges."""
    own, dim, index = layouts[node.all_input_nodes[0]], argument(node, 1, "dim"), argument(node, 2, "index")
    axis = dim % len(own.shape)
    if axis == own.tokens.axis:
        if not own.tokens.is_whole or not isinstance(index, int) or not 0 <= index < counts.protected:
            raise _cannot(node, "takes a token by its place")
        return Followed(None, node.args)
    places = [None if p is None or p.axis == axis else p.moved(-(axis < p.axis)) for p in (own.tokens, own.images)]
    assert places[0] is not None
    return Followed(Layout(shape_of(node), places[0], places[1]), node.args)


def _slice(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    """A part of an axis; of the tokens' axis one that never merges."""
    own, dim = layouts[node.all_input_nodes[0]], argument(node, 1, "dim", 0)
    axis = dim % len(own.shape)
    start, end = argument(node, 2, "start"), argument(node, 3, "end")
    if axis == own.tokens.axis:
        ends = isinstance(end, int) and 0 <= end <= counts.protected
        if not own.tokens.is_whole or not ends or not (start is None or (isinstance(start, int) and start >= 0)):
            raise _cannot(node, "takes tokens by their place")
        return Followed(None, node.args)
    images = None if own.images is None or own.images.axis == axis else own.images
    return Followed(Layout(shape_of(node), own.tokens, images), node.args)


def _cat(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    tensors: Any = node.args[0]
    known = [layouts.get(each) for each in tensors]
    first = known[0]
    dim: Any = argument(node, 1, "dim", 0)
    if first is None or any(each is None or each.tokens != first.tokens for each in known):
        raise _cannot(node, "joins tokens of which some did not merge")
    if dim % len(first.shape) == first.tokens.axis:
        raise _cannot(node, "joins tokens with others")
    images = None if first.images is not None and first.images.axis == dim % len(first.shape) else first.images
    return Followed(Layout(shape_of(node), first.tokens, images), node.args)


def _attention(node: fx.Node, layouts: Layouts, counts: Counts) -> Followed:
    """Of merged keys and values, and queries that merged with them or are others."""
    query, key, value = node.args[:3]
    plain = argument(node, 3, "attn_mask") is None and not argument(node, 5, "is_causal", False)
    if not plain:
        raise _cannot(node, "has a mask or bias by the tokens' places")
    for each in (key, value):
        own = layouts.get(each)  # type: ignore[arg-type]
        if own is None or own.from_end != 2 or not own.tokens.is_whole:
            raise _cannot(node, "attends to tokens of which some did not merge")
    asked = layouts.get(query)  # type: ignore[arg-type]
    if asked is None:
        return Followed(None, node.args)
    if asked.from_end != 2 or not asked.tokens.is_whole:
        raise _cannot(node, "attends within parts of the tokens")
    return Followed(Layout(shape_of(node), asked.tokens, asked.images), node.args)


RULES: dict[Any, Rule] = {
    LINEAR: _linear,
    aten.layer_norm.default: _layer_norm,
    aten.softmax.int: _softmax,
    aten.mean.dim: _mean,
    aten.reshape.default: _reshape,
    aten.view.default: _reshape,
    aten.flatten.using_ints: _view,
    aten.unsqueeze.default: _view,
    aten.squeeze.dim: _view,
    aten.clone.default: _view,
    aten.permute.default: _permute,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.scaled_dot_product_attention.default: _attention,
}
