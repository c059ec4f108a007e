"""Which calls of a traced graph our compiler takes: those that have a rule, or become something that has one.

The rules' tables say what is lowered. Here stand the operators that only passes know, as they write them in terms of
others, and under what conditions a call of any is taken.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from haste_compiler.codegen.tables import Joined
from haste_compiler.graph.nodes import argument, is_call, is_tensor

aten = torch.ops.aten

Constants = Collection[fx.Node]
"""Nodes that depend on parameters and buffers only."""

Condition = Callable[[fx.Node, Constants], bool]
"""Whether a call of an operator is taken."""

CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input)
"""What makes a region worth it."""

MOVEMENT = (
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
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
    operator.getitem,
)
"""What only moves values about."""

REWRITTEN = (*MOVEMENT, aten.rsub.Scalar, aten.hardtanh.default)
"""Operators that the passes write in terms of those that have rules, or TVM translates as they are."""


def takes(node: fx.Node, constants: Constants, rules: Joined, devices: Collection[torch.device]) -> bool:
    """Whether our compiler takes a call, and well enough that it may be faster.

    Args:
        node: the call.
        constants: what is constant in the graph.
        rules: what is lowered.
        devices: where tensors may be.
    """
    value = node.meta.get("val")
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 for tensor in values):
        return False
    places = {tensor.device for tensor in [*values, *(source.meta["val"] for source in _tensors(node))]}
    if len(places) != 1 or not places.issubset(devices):
        return False
    condition = _CONDITIONS.get(node.target)
    if condition is not None:
        return condition(node, constants)
    return node.target in rules or node.target in REWRITTEN


def _convolution(node: fx.Node, constants: Constants) -> bool:
    x, weight, bias = (argument(node, i, name) for i, name in enumerate(("input", "weight", "bias")))
    return x not in constants and weight in constants and (bias is None or bias in constants)


def _linear(node: fx.Node, constants: Constants) -> bool:
    weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
    return weight in constants and (bias is None or bias in constants)


def _batch_norm(node: fx.Node, constants: Constants) -> bool:
    known = all(value is None or value in constants for value in node.args[1:5])
    return known and not argument(node, 5, "training") and argument(node, 3, "running_mean") is not None


def _cat(node: fx.Node, constants: Constants) -> bool:
    """Of channels of images, or tokens."""
    tensors: Any = node.args[0]
    return argument(node, 1, "dim", 0) in (1, 1 - _rank(node)) and {3, 4}.issuperset(map(_rank, tensors))


def _mean(node: fx.Node, constants: Constants) -> bool:
    """Over height and width."""
    dims = argument(node, 1, "dim")
    return dims is not None and _rank(node.args[0]) == 4 and sorted(dim % 4 for dim in dims) == [2, 3]


def _layer_norm(node: fx.Node, constants: Constants) -> bool:
    """Not over all dimensions, which would mix the images of a batch."""
    normalised: Any = node.args[1]
    return len(normalised) < _rank(node.args[0])


def _softmax(node: fx.Node, constants: Constants) -> bool:
    """Along the rows; over the first dimension it would mix the images of a batch."""
    return _rank(node) > 1 and argument(node, 1, "dim") in (-1, _rank(node) - 1)


def _matmul(node: fx.Node, constants: Constants) -> bool:
    sources = _tensors(node)
    return not any(source in constants for source in sources) and _same_leading(sources)


def _attention(node: fx.Node, constants: Constants) -> bool:
    options = ((3, "attn_mask"), (4, "dropout_p"), (7, "enable_gqa"))
    return not any(argument(node, *option) for option in options) and _same_leading(_tensors(node))


def _pad(node: fx.Node, constants: Constants) -> bool:
    """With a constant."""
    return is_call(node, aten.constant_pad_nd.default) or argument(node, 2, "mode", "constant") == "constant"


_CONDITIONS: dict[Any, Condition] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.cat.default: _cat,
    aten.mean.dim: _mean,
    aten.layer_norm.default: _layer_norm,
    aten.softmax.int: _softmax,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
}
"""Operators of which not every call is taken."""


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if is_tensor(source)]


def _same_leading(nodes: Iterable[fx.Node]) -> bool:
    """Whether matrices are stacked in the same way, in one dimension at least."""
    first, *others = (node.meta["val"].shape[:-2] for node in nodes)
    return len(first) > 0 and all(
        len(first) == len(other) and all(statically_known_true(a == b) for a, b in zip(first, other, strict=True))
        for other in others
    )


def _rank(node: Any) -> int:
    return node.meta["val"].dim() if is_tensor(node) else 0
