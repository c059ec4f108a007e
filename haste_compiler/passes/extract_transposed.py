"""``conv_transpose2d(x, W, b, ...)`` -> ``haste::conv_transpose2d(x, W, b, None, ..., groups, "none")``."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import (
    argument,
    finish,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    replace,
    shape_of,
)
from haste_compiler.ops.conv_transpose2d import ConvTransposeCall
from haste_compiler.passes.extract_convs import pair

aten = torch.ops.aten


def extract_transposed(gm: fx.GraphModule) -> fx.GraphModule:
    """Write float32 2-d transposed convolutions with constant weights as ``haste::conv_transpose2d``.

    An input without batch dimension gets one for the convolution's sake.
    """
    for node in list(gm.graph.nodes):
        if is_call(node, aten.conv_transpose2d.input, aten.convolution.default):
            with gm.graph.inserting_before(node):
                _extract(gm, node)
    return finish(gm)


def _extract(gm: fx.GraphModule, node: fx.Node) -> None:
    x, weight, bias = (argument(node, i, name) for i, name in enumerate(("input", "weight", "bias")))
    if not is_constant(weight) or len(shape_of(weight)) != 4 or not (bias is None or is_constant(bias)):
        return
    if node.meta["val"].dtype != torch.float32 or not is_tensor(x) or 0 in (*shape_of(x), *shape_of(node)):
        return
    stride, padding = pair(argument(node, 3, "stride", 1)), pair(argument(node, 4, "padding", 0))
    if is_call(node, aten.convolution.default):
        if not argument(node, 6, "transposed"):
            return
        dilation, output_padding = pair(argument(node, 5, "dilation")), pair(argument(node, 7, "output_padding"))
        groups = argument(node, 8, "groups")
    else:
        output_padding, groups = pair(argument(node, 5, "output_padding", 0)), argument(node, 6, "groups", 1)
        dilation = pair(argument(node, 7, "dilation", 1))
    batched = len(shape_of(x)) == 4
    if not batched:
        x = insert_call(gm, aten.unsqueeze.default, (x, 0), node)
    call = ConvTransposeCall(x, weight, bias, None, stride, padding, output_padding, dilation, groups, "none")
    conv = call.insert(gm, node)
    replace(node, conv if batched else insert_call(gm, aten.squeeze.dim, (conv, 0), node))
