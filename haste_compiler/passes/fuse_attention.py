"""``softmax(scale * query @ keyᵀ + mask) @ value``, spelled out -> ``scaled_dot_product_attention``."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import (
    add_tensor,
    argument,
    finish,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    layer_name,
    number_of,
    replace,
    reshape_sizes,
    sole_user,
)

aten = torch.ops.aten

_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_SCALINGS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


class _Scores(NamedTuple):
    """What a softmax is taken of.

    Attributes:
        product: of queries and keys.
        scale: of the product.
        masks: what is added to it.
        split: the leading sizes that its first axis is split into while masks are added; None: it isn't.
    """

    product: fx.Node
    scale: float
    masks: list[Tensor]
    split: list[Any] | None


def fuse_attention(gm: fx.GraphModule) -> fx.GraphModule:
    """Write attention that is spelled out as the one operator that it is, of float32 tensors.

    Masks may be constants that leave every query a key; of a row without one, the operator makes zeros and the softmax
    NaN. A batch of windows may be split from their number to add a mask for each window.
    """
    for node in list(gm.graph.nodes):
        if is_call(node, *_PRODUCTS) and is_call(node.args[0], aten.softmax.int) and is_tensor(node.args[1]):
            with gm.graph.inserting_before(node):
                _attention(gm, node, node.args[0], node.args[1])
    return finish(gm)


def _attention(gm: fx.GraphModule, node: fx.Node, weights: fx.Node, value: fx.Node) -> None:
    last = argument(weights, 1, "dim") in (-1, weights.meta["val"].dim() - 1)
    if not last or sole_user(weights) is not node or argument(weights, 2, "dtype") is not None:
        return
    found = _scores(gm, weights.args[0])
    if found is None:
        return
    query, scale = _unscaled(gm, found.product.args[0], found.scale)
    key, scale = _unscaled(gm, found.product.args[1], scale)
    swapped = _swaps(key)
    if swapped:
        key, scale = _unscaled(gm, key.args[0], scale)
    if not _fits([query, key, value]) or not scale > 0:
        return
    if not swapped:
        key = insert_call(gm, aten.permute.default, (key, _swapped(key)), node)
    tensors: list[Any] = [query, key, value]
    if found.split is not None:
        tensors = [_split(gm, tensor, found.split, node) for tensor in tensors]
    masked = {"attn_mask": _mask(gm, found.masks, node)} if found.masks else {}
    call = insert_call(gm, aten.scaled_dot_product_attention.default, tuple(tensors), node)
    call.kwargs = {"scale": scale, **masked}
    if found.split is not None:
        call = insert_call(gm, aten.reshape.default, (call, reshape_sizes(node)), node)
    replace(node, call)


def _scores(gm: fx.GraphModule, node: Any) -> _Scores | None:
    """Follow what a softmax is taken of to a product; None where that isn't possible."""
    scale, masks, split, rank = 1.0, list[Tensor](), None, node.meta["val"].dim()
    whole = False
    while sole_user(node) is not None and not is_call(node, *_PRODUCTS):
        source, factor = _unscaled(gm, node, 1.0)
        if is_call(node, aten.add.Tensor):
            source, mask = _masked(gm, node)
            if mask is None:
                return None
            masks.append(mask * scale)
            whole |= source.meta["val"].dim() == rank == mask.dim() and mask.shape[0] != 1
        elif is_call(node, aten.reshape.default):
            source, sizes = node.args[0], list(argument(node, 1, "shape"))
            if _splits(node, source) and all(isinstance(size, int) and size > 0 for size in sizes):
                split = sizes[:-2]
            elif not _splits(source, node):
                return None
        elif source is node:
            return None
        node, scale = source, scale * factor
    if not is_call(node, *_PRODUCTS) or sole_user(node) is None or (split is not None and whole):
        return None
    return _Scores(node, scale, masks, split)


def _masked(gm: fx.GraphModule, node: fx.Node) -> tuple[Any, Tensor | None]:
    """What a constant mask is added to, and the mask; None for it where it may leave a row nothing."""
    for source, mask in (node.args[:2], node.args[1::-1]):
        if is_constant(mask) and is_tensor(source) and node.meta["val"].shape == source.meta["val"].shape:
            tensor = get_tensor(gm, mask)
            fits = tensor.dtype == torch.float32 and tensor.dim() > 0 and argument(node, 2, "alpha", 1) == 1
            return source, None if not fits or (tensor == -math.inf).all(-1).any() else tensor
    return node, None


def _unscaled(gm: fx.GraphModule, node: Any, scale: float) -> tuple[Any, float]:
    """What a tensor is a multiple of, and ``scale`` times how many times."""
    while (found := _multiple(gm, node)) is not None:
        node, scale = found[0], scale * found[1]
    return node, scale


def _multiple(gm: fx.GraphModule, node: Any) -> tuple[fx.Node, float] | None:
    """A tensor of the same shape that this one is a multiple of, and how many times."""
    if not is_call(node, *_SCALINGS):
        return None
    divides = is_call(node, aten.div.Tensor, aten.div.Scalar)
    for source, other in (node.args[:2],) if divides else (node.args[:2], node.args[1::-1]):
        number = number_of(gm, other)
        if number and is_tensor(source) and source.meta["val"].shape == node.meta["val"].shape:
            return source, 1 / number if divides else number
    return None


def _splits(split: Any, whole: Any) -> bool:
    """Whether the first axis of ``whole`` is two axes of ``split``."""
    if not is_tensor(whole):
        return False
    first, second = whole.meta["val"].shape, split.meta["val"].shape
    return len(second) == len(first) + 1 > 4 and list(second[2:]) == list(first[1:])


def _swapped(node: fx.Node) -> list[int]:
    *leading, last, before = range(node.meta["val"].dim())
    return [*leading, before, last]


def _swaps(node: fx.Node) -> bool:
    """Whether the last two axes are swapped."""
    return is_call(node, aten.permute.default) and list(argument(node, 1, "dims")) == _swapped(node)


def _fits(tensors: list[Any]) -> bool:
    """Whether all are stacked matrices of float32 in the same way."""
    values = [tensor.meta["val"] for tensor in tensors]
    leading = values[0].shape[:-2]
    return len(leading) > 0 and all(v.dtype == torch.float32 and v.shape[:-2] == leading for v in values)


def _split(gm: fx.GraphModule, tensor: fx.Node, leading: list[Any], source: fx.Node) -> fx.Node:
    sizes = [*leading, *tensor.meta["val"].shape[-2:]]
    return insert_call(gm, aten.reshape.default, (tensor, sizes), source)


def _mask(gm: fx.GraphModule, masks: list[Tensor], source: fx.Node) -> fx.Node:
    total = masks[0]
    for mask in masks[1:]:
        total = total + mask
    # The operator takes masks of its own rank or of a matrix's.
    return add_tensor(gm, f"{layer_name(source)}.mask", total.reshape(*(1,) * (2 - total.dim()), *total.shape), source)
