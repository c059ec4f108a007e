"""Operators that are captured as what PyTorch makes of them: TVM has no translation of them, or a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_DECOMPOSED = (
    aten.addcdiv.default,
    aten.addcmul.default,
    aten.all.default,
    aten.celu.default,
    aten.clip.default,
    aten.diff.default,
    aten.fill.Tensor,
    aten.frac.default,
    aten.glu.default,
    aten.hardshrink.default,
    aten.mish.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.select_scatter.default,
    aten.threshold.default,
    aten.where.Scalar,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
)


def needs_decomposing(graph: fx.Graph) -> bool:
    """Whether a graph has one of these operators."""
    return not {node.target for node in graph.nodes}.isdisjoint(_DECOMPOSED)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What ``ExportedProgram.run_decompositions`` takes to write a graph without these operators."""
    known = torch.export.default_decompositions()
    return {operator: known[operator] for operator in _DECOMPOSED}
