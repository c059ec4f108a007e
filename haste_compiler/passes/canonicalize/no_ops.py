"""What is dropped: calls that return what they are given, and assertions."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, is_tensor

aten = torch.ops.aten

_ALWAYS = {
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
}
_CONVERSIONS = {
    aten.to.dtype,
    aten.to.device,
    aten.to.other,
    aten.to.dtype_layout,
    aten.type_as.default,
    aten._to_copy.default,
}
_TO_THE_SAME_SHAPE = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.expand.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    # Pooling to the size that is there already averages single pixels.
    aten.adaptive_avg_pool2d.default,
}

_PADS = {aten.pad.default, aten.constant_pad_nd.default}


def is_assertion(node: fx.Node) -> bool:
    """Whether a call only checks something."""
    return not node.users and "assert" in str(node.target)


def is_no_op(node: fx.Node) -> bool:
    """Whether a call returns its first argument, a tensor, as it is."""
    if not node.args or not is_tensor(node.args[0]) or not is_tensor(node):
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]
    if node.target in _ALWAYS:
        return True
    if node.target in _PADS:
        return not any(argument(node, 1, "pad"))
    if node.target in _CONVERSIONS:
        return before.dtype == after.dtype and before.device == after.device
    return node.target in _TO_THE_SAME_SHAPE and before.shape == after.shape
