"""``act(conv(x) + b + r)`` -> one ``haste::conv2d``; transposed and linear layers alike, ``act`` for an affine map."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import finish, insert_call, is_call, is_tensor, replace, shape_of, sole_user
from haste_compiler.ops.activation import activation_name
from haste_compiler.ops.affine import AFFINE
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D
from haste_compiler.ops.linear import LINEAR

aten = torch.ops.aten

# Position of the residual among the arguments; the activation is the last.
_RESIDUAL = {CONV2D: 3, CONV_TRANSPOSE2D: 3, LINEAR: 3}
_ACTIVATED = (*_RESIDUAL, AFFINE)
_CHANNELS_FIRST, _CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def fuse_epilogue(gm: fx.GraphModule) -> fx.GraphModule:
    """Fuse a residual and then an activation into the convolution or linear layer whose result only they use, and an
    activation into a batch norm that stands alone.

    The residual is the other operand of an ``add``, of the same shape. Where a linear layer's result is first permuted
    to NCHW, the residual is permuted to NHWC instead, which costs nothing where a convolution made it. Where two layers
    meet in one ``add``, the later one takes the other's result. An activation is any that ``apply_activation`` knows;
    a ``gelu`` must be exact.
    """
    for node in list(gm.graph.nodes):
        if is_call(node, aten.add.Tensor):
            _fuse_residual(gm, node)
    for node in list(gm.graph.nodes):
        activation = activation_name(node)
        if activation is None:
            continue
        layer = node.args[0]
        if is_call(layer, *_ACTIVATED) and layer.args[-1] == "none" and list(layer.users) == [node]:
            layer.args = (*layer.args[:-1], activation)
            replace(node, layer)
    return finish(gm)


def _fuse_residual(gm: fx.GraphModule, node: fx.Node) -> None:
    if len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1 or node.args[0] is node.args[1]:
        return
    order = {other: position for position, other in enumerate(gm.graph.nodes)}
    left, right = node.args
    if not is_tensor(left) or not is_tensor(right):
        return
    later_first = sorted([(left, right), (right, left)], key=lambda pair: -order[pair[0]])
    for result, residual in later_first:
        layer = _before_permute(result) or result
        if not is_call(layer, *_RESIDUAL) or sole_user(layer) is None or sole_user(result) is None:
            continue
        if layer.args[_RESIDUAL[layer.target]] is not None or layer.args[-1] != "none":  # type: ignore[index]
            continue
        if not shape_of(result) == shape_of(residual) == shape_of(node) or residual.meta["val"].dtype != torch.float32:
            continue
        # At the place of the addition both operands are there.
        with gm.graph.inserting_before(node):
            if layer is not result:
                residual = insert_call(gm, aten.permute.default, (residual, _CHANNELS_LAST), result)
            args = list(layer.args)
            args[_RESIDUAL[layer.target]] = residual  # type: ignore[index]
            fused = insert_call(gm, layer.target, tuple(args), layer)  # type: ignore[arg-type]
            if layer is not result:
                fused = insert_call(gm, aten.permute.default, (fused, _CHANNELS_FIRST), result)
        replace(node, fused)
        gm.graph.erase_node(result)
        if layer is not result:
            gm.graph.erase_node(layer)
        return


def _before_permute(node: fx.Node) -> fx.Node | None:
    """The linear layer over the channels of images whose result ``node`` moves to NCHW; None for any other node."""
    if not is_call(node, aten.permute.default) or [dim % 4 for dim in node.args[1]] != _CHANNELS_FIRST:  # type: ignore[operator, union-attr]
        return None
    return node.args[0] if is_call(node.args[0], LINEAR) else None
