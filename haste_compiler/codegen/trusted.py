"""Which calls are left to TVM's own translations: of operators whose samples they compute as PyTorch does.

TVM translates many more, some of them wrongly. An operator gets onto this list when all of PyTorch's own samples of it
pass, which ``tests/test_operator_samples.py`` tests; everything else PyTorch runs itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import argument, example_size, shape_of

aten = torch.ops.aten

Condition = Callable[[fx.Node], bool]
"""Whether a call of an operator is translated rightly."""


def _always(node: fx.Node) -> bool:
    return True


def _plain_sum(node: fx.Node) -> bool:
    """Without a factor."""
    return argument(node, 2, "alpha", 1) == 1


def _constant_padding(node: fx.Node) -> bool:
    return argument(node, 2, "mode", "constant") == "constant" and min(argument(node, 1, "pad"), default=0) >= 0


def _plain_division(node: fx.Node) -> bool:
    return argument(node, 2, "rounding_mode") is None


def _whole_factors(node: fx.Node) -> bool:
    """Resizing by whole numbers, which are the scales as well if there are any."""
    before, after, scales = shape_of(node.args[0])[2:], shape_of(node)[2:], argument(node, 2, "scale_factors")  # type: ignore[arg-type]
    whole = all(new % old == 0 for old, new in zip(before, after, strict=True))
    return whole and (scales is None or all(float(scale).is_integer() for scale in scales))


POINTWISE = (
    aten.abs.default,
    aten.ceil.default,
    aten.cos.default,
    aten.elu.default,
    aten.erf.default,
    aten.exp.default,
    aten.floor.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.leaky_relu.default,
    aten.log.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.rsqrt.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.sin.default,
    aten.sqrt.default,
    aten.square.default,
    aten.tanh.default,
)
"""Operators that compute each value from one value, or from several in the same place."""

_MOVING = (
    aten.cat.default,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.repeat.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.stack.default,
    aten.unsqueeze.default,
    aten.view.default,
)

_CHOOSING = (
    aten.eq.Scalar,
    aten.eq.Tensor,
    aten.ge.Scalar,
    aten.ge.Tensor,
    aten.gt.Scalar,
    aten.gt.Tensor,
    aten.le.Scalar,
    aten.le.Tensor,
    aten.logical_not.default,
    aten.lt.Scalar,
    aten.lt.Tensor,
    aten.ne.Scalar,
    aten.ne.Tensor,
    aten.to.dtype,
    aten.where.self,
)
"""Operators that also take and make truth values."""

TRUSTED: dict[Any, Condition] = {
    **dict.fromkeys((*POINTWISE, *_MOVING, *_CHOOSING), _always),
    aten.add.Tensor: _plain_sum,
    aten.constant_pad_nd.default: _constant_padding,
    aten.div.Tensor: _plain_division,
    aten.pad.default: _constant_padding,
    aten.softmax.int: _always,
    aten.sub.Tensor: _plain_sum,
    aten.upsample_nearest2d.vec: _whole_factors,
}
"""The operators, each with the condition under which a call is translated."""


def is_trusted(node: fx.Node) -> bool:
    """Whether TVM translates a call rightly."""
    condition = TRUSTED.get(node.target)
    kinds = (torch.float32, torch.bool) if node.target in _CHOOSING else (torch.float32,)
    return condition is not None and _is_of(node, kinds) and condition(node)


def is_plain(node: fx.Node) -> bool:
    """Whether all that a call reads and makes are float32 tensors with elements in them, its value with dimensions."""
    return _is_of(node, (torch.float32,))


def _is_of(node: fx.Node, kinds: Sequence[torch.dtype]) -> bool:
    value = node.meta.get("val")
    made = list(value) if isinstance(value, (list, tuple)) else [value]
    read = [source.meta.get("val") for source in node.all_input_nodes]
    # A number among what is read is a size that depends on the batch.
    tensors = [*made, *(each for each in read if not isinstance(each, torch.SymInt))]
    fits = all(
        isinstance(each, Tensor) and each.dtype in kinds and 0 not in map(example_size, each.shape) for each in tensors
    )
    return fits and all(each.dim() > 0 for each in made if isinstance(each, Tensor))
