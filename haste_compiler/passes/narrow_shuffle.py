"""``channel_shuffle(cat(a, b), 2)[:, s:e]`` -> ``channel_shuffle([a, b], 2, s, e)``: read and written once."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, finish, insert_call, is_call, joined_channels, replace, shape_of
from haste_compiler.ops.channel_shuffle import CHANNEL_SHUFFLE

aten, haste = torch.ops.aten, torch.ops.haste


def narrow_channel_shuffle(gm: fx.GraphModule) -> fx.GraphModule:
    """Let a shuffle read the tensors that were joined for it, and write only the channels that a split keeps."""
    for node in list(gm.graph.nodes):
        if not is_call(node, CHANNEL_SHUFFLE):
            continue
        parts, groups, end = (argument(node, i, name) for i, name in ((0, "parts"), (1, "groups"), (3, "end")))
        joined = joined_channels(parts[0]) if len(parts) == 1 else None
        if joined and [shape_of(part)[1] for part in joined] == [shape_of(parts[0])[1] // groups] * groups:
            parts = joined
            node.args = (parts, groups, 0, end)
        for user in list(node.users):
            kept = _channels_kept(user, groups)
            if kept is not None:
                with gm.graph.inserting_before(user):
                    part = insert_call(gm, CHANNEL_SHUFFLE, (parts, groups, *kept), user)
                replace(user, part)
    return finish(gm)


def _channels_kept(user: fx.Node, groups: int) -> tuple[int, int] | None:
    """First and last + 1 of the channels that ``user`` slices out; None if it is no such slice, or cuts a group."""
    if not is_call(user, aten.slice.Tensor) or argument(user, 1, "dim", 0) % 4 != 1:
        return None
    bounds = slice(argument(user, 2, "start", None), argument(user, 3, "end", None), argument(user, 4, "step", 1))
    first, last, step = bounds.indices(shape_of(argument(user, 0, "self"))[1])
    return (first, last) if step == 1 and first % groups == last % groups == 0 and first < last else None
