"""Shapes, dtypes and errors of nodes, as lowering needs them."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import shape_of


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as TVM calls it."""
    return str(dtype).removeprefix("torch.")


def is_float(*nodes: fx.Node) -> bool:
    """Whether these are float32 tensors, none empty, of which no size depends on the batch but the first."""
    values = [node.meta["val"] for node in nodes]
    return not any(
        value.dtype != torch.float32
        or value.dim() == 0
        or 0 in shape_of(node)
        or any(isinstance(size, torch.SymInt) for size in value.shape[1:])
        for node, value in zip(nodes, values, strict=True)
    )
