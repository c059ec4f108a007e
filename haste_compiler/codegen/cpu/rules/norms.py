"""Layer normalization on a CPU."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.codegen.cpu.kernels.layer_norm import layer_norm_kernel
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk, args_of
from haste_compiler.graph.nodes import argument, layer_name

aten = torch.ops.aten


def layer_norm(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Over the last axes, with weight and bias."""
    x, normalised, weight, bias = args_of(node)[:4]
    eps = argument(node, 4, "eps", 1e-5)
    if not is_float(x, weight, bias):
        return None
    shape, axes = walk.shape(x), len(normalised)
    y = walk.launch(
        ("layer_norm", shape, axes, eps),
        layer_name(node),
        [walk.nchw(tensor) for tensor in (x, weight, bias)],
        shape,
        lambda symbol: layer_norm_kernel(symbol, shape, axes, eps, walk.machine.unit.lanes),
    )
    return Value(y)


RULES: Rules = {aten.layer_norm.default: layer_norm}
