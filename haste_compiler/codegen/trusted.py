"""Which calls are left to TVM's own translations: of operators whose samples they compute as PyTorch does.

TVM translates many more, some of them wrongly. An operator gets onto this list when all of PyTorch's own samples of it
pass, which ``tests/test_operator_samples.py`` tests; everything else PyTorch runs itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import argument, example_size, is_constant, shape_of

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


_POINTWISE = (
    aten.abs.default,
    aten.ceil.default,
    aten.cos.default,
    aten.div.Scalar,
    aten.elu.default,
    aten.erf.default,
    aten.exp.default,
    aten.floor.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.leaky_relu.default,
    aten.mul.Scalar,
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

TRUSTED: dict[Any, Condition] = {
    **dict.fromkeys((*_POINTWISE, *_MOVING), _always),
    aten.add.Tensor: _plain_sum,
    aten.add.Scalar: _plain_sum,
    aten.sub.Tensor: _plain_sum,
    aten.sub.Scalar: _plain_sum,
    aten.div.Tensor: _plain_division,
    aten.constant_pad_nd.default: _constant_padding,
    aten.pad.default: _constant_padding,
    aten.upsample_nearest2d.vec: _whole_factors,
}
"""The operators, each with the condition under which a call is translated."""


def is_trusted(node: fx.Node) -> bool:
    """Whether TVM translates a call rightly, given that it ``is_plain``."""
    condition = TRUSTED.get(node.target)
    return condition is not None and condition(node)


def is_plain(node: fx.Node) -> bool:
    """Whether all that a call reads and makes are float32 tensors with dimensions, and with elements in them."""
    return all(map(_is_plain, (node, *node.all_input_nodes)))


def _is_plain(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, Tensor) and _is_plain_tensor(each) for each in value)
    if not isinstance(value, Tensor):
        # A size that depends on the batch.
        return isinstance(value, torch.SymInt)
    return _is_plain_tensor(value) or (is_constant(node) and value.dtype == torch.float32 and value.dim() == 0)


def _is_plain_tensor(value: Tensor) -> bool:
    return value.dtype == torch.float32 and value.dim() > 0 and 0 not in map(example_size, value.shape)
