"""Pooling, and means over height and width, of images (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from tvm import tirx

from haste_compiler.codegen.pooling import Pooling
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, layer_name, shape_of

aten = torch.ops.aten

PoolingKernel = Callable[[Walk[Any], str, Pooling, Any, int], tirx.PrimFunc]
"""Makes a target's kernel (x NHWC, y NHWC) of a name, a pooling, a batch and so many channels."""


def pooling_rules(kernel: PoolingKernel) -> Rules:
    """The rules for a target's kernel."""

    def pool(walk: Walk[Any], node: fx.Node, pooling: Pooling) -> Value | None:
        x = args_of(node)[0]
        batch, channels = walk.shape(x)[:2]
        if len(shape_of(x)) != 4:
            return None
        y = walk.launch(
            ("pool", pooling, batch, channels),
            layer_name(node),
            [walk.nhwc(x)],
            (batch, *pooling.output_size, channels),
            lambda symbol: kernel(walk, symbol, pooling, batch, channels),
        )
        return Value(y, nhwc=True)

    def mean(walk: Walk[Any], node: fx.Node) -> Value | None:
        if not _is_over_plane(node):
            return None
        shape = shape_of(args_of(node)[0])
        pooled = pool(walk, node, Pooling("adaptive_avg", (shape[2], shape[3]), (1, 1)))
        if pooled is None or argument(node, 2, "keepdim", False):
            return pooled
        return Value(walk.reshaped(pooled.expr, walk.shape(node)))

    return {
        **dict.fromkeys(POOLINGS, lambda walk, node: pool(walk, node, POOLINGS[node.target](node))),
        aten.mean.dim: mean,
    }


def _max_pool(node: fx.Node) -> Pooling:
    kernel = _pair(args_of(node)[1])
    stride = _pair(argument(node, 2, "stride", None) or kernel)
    padding, dilation = _pair(argument(node, 3, "padding", 0)), _pair(argument(node, 4, "dilation", 1))
    return Pooling("max", _size(args_of(node)[0]), _size(node), kernel, stride, padding, dilation)


def _avg_pool(node: fx.Node) -> Pooling:
    kernel = _pair(args_of(node)[1])
    stride = _pair(argument(node, 2, "stride", None) or kernel)
    padding = _pair(argument(node, 3, "padding", 0))
    options = {
        "count_include_pad": argument(node, 5, "count_include_pad", True),
        "divisor": argument(node, 6, "divisor_override", None),
    }
    return Pooling("avg", _size(args_of(node)[0]), _size(node), kernel, stride, padding, **options)


def _adaptive(node: fx.Node) -> Pooling:
    return Pooling("adaptive_avg", _size(args_of(node)[0]), _size(node))


POOLINGS: Mapping[Any, Callable[[fx.Node], Pooling]] = {
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive,
}
"""What a call of each operator is."""


def _is_over_plane(node: fx.Node) -> bool:
    """Whether a mean is over height and width of images."""
    x, dims = args_of(node)[0], argument(node, 1, "dim", None)
    if dims is None or len(shape_of(x)) != 4:
        return False
    return sorted(dim % 4 for dim in dims) == [2, 3]


def _size(node: fx.Node) -> tuple[int, int]:
    """Height and width of (N, C, H, W); pooling of other ranks is left to TVM."""
    height, width = (1, 1, *shape_of(node))[-2:]
    return height, width


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
