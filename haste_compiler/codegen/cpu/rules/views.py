"""Large views on a CPU: one copy of rows, from the memory that they look at."""

from __future__ import annotations

import math

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.strided_copy import merged, strided_copy_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.rules import layout
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.graph.views import VIEWS, contiguous_strides

aten = torch.ops.aten

LARGE = 1 << 14
"""Values whose moving is worth a kernel of its own: TVM fuses it with what is around, and looks up each source."""

_LEAST_ROW = 4
"""Values that must lie side by side."""


def view(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """What stays an image or moves nothing, then a copy of rows, then what is left."""
    first = node.target is aten.permute.default or walk.is_nhwc(node.all_input_nodes[0])
    rule = layout.RULES.get(node.target)
    value: Value | None = rule(walk, node) if rule is not None and first else None
    if value is None:
        value = _copied(walk, node)
    return rule(walk, node) if value is None and rule is not None and not first else value


def _copied(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    seen = walk.view(node)
    if seen is None or seen.base is node or not is_float(node, seen.base) or math.prod(shape_of(node)) < LARGE:
        return None
    moves_nothing = seen.offset == 0 and seen.strides == contiguous_strides(shape_of(node))
    if moves_nothing or merged(shape_of(node), seen.strides)[1] < _LEAST_ROW:
        return None
    memory, shape = walk.stored_shape(seen.base), walk.shape(node)
    copied = walk.launch(
        ("strided_copy", memory, shape, seen.strides, seen.offset),
        layer_name(node),
        [walk.value(seen.base).expr],
        shape,
        lambda symbol: strided_copy_kernel(symbol, memory, shape, seen.strides, seen.offset, walk.machine.unit.lanes),
    )
    return Value(copied)


RULES: Rules = dict.fromkeys(VIEWS, view)
