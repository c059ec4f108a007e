"""``conv2d(pad(x), W, b, ...)`` -> ``haste::conv2d(x, W, b, None, stride, padding (4), dilation, groups, "none")``."""

from __future__ import annotations

from typing import Any

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
from haste_compiler.ops.conv2d import CONV2D

aten = torch.ops.aten

Padding = list[int]
"""Zero rows and columns: top, bottom, left, right."""


def extract_convs(gm: fx.GraphModule) -> fx.GraphModule:
    """Write float32 2-d convolutions with constant weights as ``haste::conv2d``.

    Any way to give the padding ("same", one number, ``F.pad`` with zeros before) becomes four numbers. An input without
    batch dimension gets one for the convolution's sake.
    """
    for node in list(gm.graph.nodes):
        if is_call(node, aten.conv2d.default, aten.conv2d.padding, aten.convolution.default):
            with gm.graph.inserting_before(node):
                _extract(gm, node)
    return finish(gm)


def _extract(gm: fx.GraphModule, node: fx.Node) -> None:
    x, weight, bias = (argument(node, i, name) for i, name in enumerate(("input", "weight", "bias")))
    if not is_constant(weight) or len(shape_of(weight)) != 4 or not (bias is None or is_constant(bias)):
        return
    if node.meta["val"].dtype != torch.float32 or not is_tensor(x) or 0 in shape_of(node):
        return
    if is_call(node, aten.convolution.default):
        if argument(node, 6, "transposed"):
            return
        groups = argument(node, 8, "groups")
    else:
        groups = argument(node, 6, "groups", 1)
    stride = pair(argument(node, 3, "stride", 1))
    dilation = pair(argument(node, 5, "dilation", 1))
    padding = _padding(argument(node, 4, "padding", 0), shape_of(weight)[2:], dilation)
    batched = len(shape_of(x)) == 4
    if not batched:
        x = insert_call(gm, aten.unsqueeze.default, (x, 0), node)
    while (before := _zero_padding(x)) is not None:
        x = x.args[0]
        padding = [mine + other for mine, other in zip(padding, before, strict=True)]
    args: tuple[Any, ...] = (x, weight, bias, None, stride, padding, dilation, groups, "none")
    conv = insert_call(gm, CONV2D, args, node)
    replace(node, conv if batched else insert_call(gm, aten.squeeze.dim, (conv, 0), node))


def pair(value: Any) -> list[int]:
    """A number, or one or two in a list, as (vertical, horizontal)."""
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _padding(padding: Any, kernel: tuple[int, ...], dilation: list[int]) -> Padding:
    if padding == "same":
        # An odd number of rows or columns puts the extra one at the end, as PyTorch does.
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [side for total in totals for side in (total // 2, total - total // 2)]
    if padding == "valid":
        return [0, 0, 0, 0]
    rows, columns = pair(padding)
    return [rows, rows, columns, columns]


def _zero_padding(node: fx.Node) -> Padding | None:
    """The padding that ``node`` adds to its argument, if it pads height and width of (N, C, H, W) with zeros."""
    if is_call(node, aten.pad.default):
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    elif is_call(node, aten.constant_pad_nd.default):
        mode, value = "constant", argument(node, 2, "value", 0)
    else:
        return None
    pads = [*argument(node, 1, "pad"), 0, 0, 0, 0][:4]
    outer = argument(node, 1, "pad")[4:]
    if mode != "constant" or value not in (None, 0) or any(outer) or min(pads) < 0 or len(shape_of(node)) != 4:
        return None
    left, right, top, bottom = pads
    return [top, bottom, left, right]
