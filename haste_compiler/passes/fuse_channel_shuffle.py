"""ShuffleNet's channel shuffle: ``reshape(permute(reshape(x)))`` -> ``haste::channel_shuffle([x], groups, 0, C)``."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, finish, insert_call, is_call, is_tensor, replace, shape_of, sole_user
from haste_compiler.ops.channel_shuffle import CHANNEL_SHUFFLE

aten = torch.ops.aten


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
                shuffled = insert_call(gm, CHANNEL_SHUFFLE, arguments, node)
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
