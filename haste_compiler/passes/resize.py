"""``upsample(x)`` -> two index selections (nearest) or two linear maps: TVM's coordinates are not PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    add_tensor,
    argument,
    finish,
    insert_call,
    is_call,
    is_tensor,
    replace,
    shape_of,
)
from haste_compiler.graph.resizing import axis_map, on_axis

aten = torch.ops.aten

_NEAREST = (aten.upsample_nearest2d.vec, aten._upsample_nearest_exact2d.vec)
_LINEAR = (
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
)


def write_resizing(gm: fx.GraphModule) -> fx.GraphModule:
    """Write resizing of images by other than whole factors as what it is on each axis.

    Nearest neighbours pick rows and columns; bilinear and bicubic interpolation, with or without antialiasing, is one
    matrix for the rows and one for the columns. Both are read off PyTorch's own operator. Resizing by whole factors is
    left to TVM, except with antialiasing, which it doesn't know.
    """
    for node in list(gm.graph.nodes):
        if not is_call(node, *_NEAREST, *_LINEAR) or not is_tensor(node) or node.meta["val"].dtype != torch.float32:
            continue
        x = argument(node, 0, "input")
        before, after = shape_of(x)[2:], shape_of(node)[2:]
        whole = all(new % old == 0 for old, new in zip(before, after, strict=True))
        scales: Any = argument(node, len(node.target._schema.arguments) - 1, "scale_factors")  # type: ignore[union-attr]
        exact = scales is None or all(float(scale).is_integer() for scale in scales)
        if whole and exact and is_call(node, aten.upsample_nearest2d.vec, *_LINEAR[:2]):
            continue
        with gm.graph.inserting_before(node):
            replace(node, (_select if is_call(node, *_NEAREST) else _interpolate)(gm, node, x))
    return finish(gm)


def _select(gm: fx.GraphModule, node: fx.Node, x: fx.Node) -> fx.Node:
    for axis, size in enumerate(shape_of(x)[2:]):
        index = on_axis(node, torch.arange(size, dtype=torch.float32)[None], axis)[0].long()
        picked = add_tensor(gm, f"{node.name}.index", index, node)
        x = insert_call(gm, aten.index_select.default, (x, 2 + axis, picked), node)
    return x


def _interpolate(gm: fx.GraphModule, node: fx.Node, x: fx.Node) -> fx.Node:
    for axis in (1, 0):
        matrix = axis_map(node, axis)
        weight = add_tensor(gm, f"{node.name}.weight", matrix, node)
        x = insert_call(gm, aten.linear.default, (x, weight), node)
        x = insert_call(gm, aten.permute.default, (x, [0, 1, 3, 2]), node)
    return x
