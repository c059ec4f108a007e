"""ShuffleNet's channel shuffle: ``reshape(permute(reshape(x)))`` -> ``haste::channel_shuffle([x], groups, 0, C)``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from haste_compiler.passes.graph import argument, finish, insert_call, is_call, is_tensor, replace, shape_of, sole_user

aten = torch.ops.aten


@torch.library.custom_op("haste::channel_shuffle", mutates_args=())
def channel_shuffle(parts: Sequence[Tensor], groups: int, start: int, end: int) -> Tensor:
    """Interleave the channels of ``groups`` groups: channel ``g * (C / groups) + i`` goes to ``i * groups + g``.

    Args:
        parts: (N, Cp, H, W) each, joined along their channels, C in all: one tensor, or each group's own.
        groups: how many; C is divisible by it.
        start: first channel of the shuffled tensor that is wanted, divisible by ``groups``.
        end: the one after the last, divisible by ``groups``.

    Returns:
        (N, end - start, H, W).
    """
    x = torch.cat(list(parts), 1)
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)[:, start:end].clone()


@channel_shuffle.register_fake
def _(parts: Sequence[Tensor], groups: int, start: int, end: int) -> Tensor:
    n, _, h, w = parts[0].shape
    return parts[0].new_empty((n, end - start, h, w))


def fuse_channel_shuffle(gm: fx.GraphModule) -> fx.GraphModule:
    """``reshape(permute(reshape(x, [N, g, C/g, H, W]), [0, 2, 1, 3, 4]), [N, C, H, W])`` is one shuffle of g groups."""
    for node in list(gm.graph.nodes):
        if is_call(node, aten.channel_shuffle.default, aten.native_channel_shuffle.default):
            x, groups = node.args[0], argument(node, 1, "groups")
        else:
            x, groups = _match(node)
        if is_tensor(x) and len(shape_of(x)) == 4:
            with gm.graph.inserting_before(node):
                arguments = ([x], groups, 0, shape_of(x)[1])
                shuffled = insert_call(gm, torch.ops.haste.channel_shuffle.default, arguments, node)
            replace(node, shuffled)
    return finish(gm)


def _match(node: fx.Node) -> tuple[fx.Node | None, int]:
    none = (None, 0)
    if not is_call(node, aten.reshape.default):
        return none
    permute = node.args[0]
    if not is_call(permute, aten.permute.default) or sole_user(permute) is None:
        return none
    split = permute.args[0]
    if not is_call(split, aten.reshape.default) or sole_user(split) is None or permute.args[1] != [0, 2, 1, 3, 4]:
        return none
    x = split.args[0]
    if not is_tensor(x) or shape_of(x) != shape_of(node) or len(shape_of(x)) != 4:
        return none
    n, c, h, w = shape_of(x)
    groups = shape_of(split)[1]
    return (x, groups) if c % groups == 0 and shape_of(split) == (n, groups, c // groups, h, w) else none
