"""Values kept between two limits: ``relu`` and ``relu6`` where the limits are theirs, ``clamp`` elsewhere."""

from __future__ import annotations

import math

import torch
from torch import fx

from haste_compiler.graph.nodes import argument, replace
from haste_compiler.passes.canonicalize.rewrite import Rewrites, call, source_of

aten = torch.ops.aten


def _clamp(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, argument(node, 1, "min"), argument(node, 2, "max"))


def _clamp_min(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, argument(node, 1, "min"), None)


def _clamp_max(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, None, argument(node, 1, "max"))


def _hardtanh(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))


def _clamped(gm: fx.GraphModule, node: fx.Node, low: float | None, high: float | None) -> None:
    # Whole numbers are clamped by other rules of type promotion.
    if not node.meta["val"].dtype.is_floating_point:
        return
    low = None if low == -math.inf else low
    high = None if high == math.inf else high
    source = source_of(node)
    if (low, high) == (0, None):
        call(gm, node, aten.relu.default, source)
    elif (low, high) == (0, 6):
        call(gm, node, aten.relu6.default, source)
    elif (low, high) == (None, None):
        replace(node, source)
    else:
        call(gm, node, aten.clamp.default, source, low, high)


REWRITES: Rewrites = {
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp_min,
    aten.clamp_max.default: _clamp_max,
    aten.hardtanh.default: _hardtanh,
}
