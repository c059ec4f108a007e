"""``cat(x, ...) * s + t`` -> ``haste::affine([x, ...], s, t, "none")``: memory is read and written once."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    add_tensor,
    argument,
    finish,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    joined_channels,
    layer_name,
    replace,
    shape_of,
    sole_user,
)
from haste_compiler.ops.affine import AFFINE

aten = torch.ops.aten


def fuse_affine(gm: fx.GraphModule) -> fx.GraphModule:
    """Write batch norms that no convolution took in, which ``fold_batch_norm`` spelled out, as ``haste::affine``.

    A join along the channels that only it reads is taken in, too.
    """
    for node in list(gm.graph.nodes):
        if not is_call(node, aten.add.Tensor) or node.kwargs or 0 in shape_of(node):
            continue
        product, shift = argument(node, 0, "self"), argument(node, 1, "other")
        if not is_call(product, aten.mul.Tensor) or sole_user(product) is None or not _per_channel(shift, node):
            continue
        x, scale = argument(product, 0, "self"), argument(product, 1, "other")
        if not is_tensor(x) or is_constant(x) or shape_of(x) != shape_of(node) or not _per_channel(scale, node):
            continue
        with gm.graph.inserting_before(node):
            constants = [
                add_tensor(gm, f"{layer_name(node)}.{name}", get_tensor(gm, value).flatten(), node)
                for name, value in (("scale", scale), ("shift", shift))
            ]
            replace(node, insert_call(gm, AFFINE, (_joined(x), *constants, "none"), node))
    return finish(gm)


def _per_channel(value: object, node: fx.Node) -> bool:
    """Whether ``value`` is a float32 constant (C, 1, 1), and ``node`` (N, C, H, W)."""
    if not is_constant(value) or value.meta["val"].dtype != torch.float32 or len(shape_of(node)) != 4:
        return False
    return shape_of(value) == (shape_of(node)[1], 1, 1)


def _joined(x: fx.Node) -> list[fx.Node]:
    """The tensors that ``x`` joins along the channels, if only one node reads it; otherwise ``x``."""
    parts = joined_channels(x)
    return [x] if parts is None or sole_user(x) is None else parts
