"""Shapes, dtypes and errors of nodes, as lowering needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from tvm import sym

from haste_compiler.graph.nodes import shape_of


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for every batch."""
    analyzer = sym.Analyzer()
    return len(a) == len(b) and all(analyzer.can_prove_equal(x, y) for x, y in zip(a, b, strict=True))


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
