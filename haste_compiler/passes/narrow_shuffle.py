"""``channel_shuffle(cat(a, b), 2)[:, s:e]`` -> ``channel_shuffle([a, b], 2, s, e)``: read and written once."""

from __future__ import annotations

import torch
from torch import fx

import haste_compiler.passes.channel_shuffle  # noqa: F401  (registers torch.ops.haste.channel_shuffle)
from haste_compiler.passes.graph import argument, finish, insert_call, is_call, replace, shape_of

aten, haste = torch.ops.aten, torch.ops.haste


def narrow_channel_shuffle(gm: fx.GraphModule) -> fx.GraphModule:
    """Let a shuffle read the tensors that were joined for it, and write only the channels that a split keeps."""
    for node in list(gm.graph.nodes):
        if not is_call(node, haste.channel_shuffle.default):
            continue
        parts, groups, end = (argument(node, i, name) for i, name in ((0, "parts"), (1, "groups"), (3, "end")))
        if len(parts) == 1 and _joins_groups(parts[0], groups):
            parts = list(argument(parts[0], 0, "tensors"))
            node.args = (parts, groups, 0, end)
        for user in list(node.users):
            kept = _channels_kept(user, groups)
            if kept is not None:
                with gm.graph.inserting_before(user):
                    part = insert_call(gm, haste.channel_shuffle.default, (parts, groups, *kept), user)
                replace(user, part)
    return finish(gm)


def _joins_groups(x: fx.Node, groups: int) -> bool:
    """Whether ``x`` joins, along the channels, as many tensors of equal channels as there are groups."""
    if not is_call(x, aten.cat.default) or argument(x, 1, "dim", 0) % 4 != 1:
        return False
    parts = argument(x, 0, "tensors")
    return len(parts) == groups and all(shape_of(part)[1] == shape_of(x)[1] // groups for part in parts)


def _channels_kept(user: fx.Node, groups: int) -> tuple[int, int] | None:
    """First and last + 1 of the channels that ``user`` slices out; None if it is no such slice, or cuts a group."""
    if not is_call(user, aten.slice.Tensor) or argument(user, 1, "dim", 0) % 4 != 1:
        return None
    bounds = slice(argument(user, 2, "start", None), argument(user, 3, "end", None), argument(user, 4, "step", 1))
    first, last, step = bounds.indices(shape_of(argument(user, 0, "self"))[1])
    return (first, last) if step == 1 and first % groups == last % groups == 0 and first < last else None
