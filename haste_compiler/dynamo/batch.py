"""Batches of any size from programs for a few sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

_BASE = 4
"""Programs are made for powers of it: any batch takes at most three calls of each, and few programs are kept."""


@dataclass(frozen=True)
class Batch:
    """A region that treats every image of a batch by itself.

    Attributes:
        symbol: the batch's.
        positions: of the region's sizes, those that are the batch.
    """

    symbol: Any
    positions: tuple[int, ...]

    def sizes(self, sizes: Sequence[int], count: int) -> list[int]:
        """The sizes for a batch of ``count`` images."""
        return [count if index in self.positions else size for index, size in enumerate(sizes)]


def batch_symbol(gm: fx.GraphModule, counts: tuple[int, int, int]) -> Batch | None:
    """Whether a region treats every image of a batch by itself: None if not, or if the batch is no symbol.

    Every tensor in it must have one and the same symbol as its first dimension and nowhere else: none of the operators
    that a region is made of mixes images without it showing there.

    Args:
        gm: the region.
        counts: of its placeholders, how many are tensors, weights and sizes.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    tensors, weights = placeholders[: counts[0]], placeholders[counts[0] : counts[0] + counts[1]]
    first = tensors[0].meta["val"].shape[0] if tensors[0].meta["val"].dim() else 1
    if not isinstance(first, torch.SymInt) or not first.node.expr.is_Symbol:
        return None
    symbol = first.node.expr
    positions = []
    for index, node in enumerate(placeholders[sum(counts[:2]) :]):
        expression = _expression(node.meta["val"])
        if expression == symbol:
            positions.append(index)
        elif _depends(node.meta["val"], symbol):
            return None
    constant = set(weights)
    for node in gm.graph.nodes:
        if node.op == "output" or node in constant:
            continue
        if node.op == "call_function" and node.all_input_nodes and constant.issuperset(node.all_input_nodes):
            constant.add(node)
            continue
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(tensor, Tensor):
                continue
            shape = tensor.shape
            if not len(shape) or _expression(shape[0]) != symbol or any(_depends(size, symbol) for size in shape[1:]):
                return None
    return Batch(symbol, tuple(positions))


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _depends(size: Any, symbol: Any) -> bool:
    return isinstance(size, torch.SymInt) and symbol in size.node.expr.free_symbols


def pieces(batch: int, first: int) -> list[int]:
    """Sizes that add up to ``batch``: of programs for powers of four, and for the batch that came first.

    Args:
        batch: images, at least 1.
        first: the size that there is a program for anyway.
    """
    powers = [1]
    while powers[-1] * _BASE <= batch:
        powers.append(powers[-1] * _BASE)
    parts = []
    for size in sorted({*powers, first}, reverse=True):
        parts += [size] * (batch // size)
        batch %= size
    return parts
