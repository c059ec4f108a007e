"""PyTorch's symbolic sizes as TVM's: one symbol, the batch."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.functions import FloorDiv
from tvm import tirx

from haste_compiler.codegen.dynamic import DynamicBatch, hint_of
from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.nodes import example_size, layer_name, shape_of

_LARGEST_INDEX = 2**31 - 1
"""Kernels count elements in 32 bits."""


class SymbolicSizes:
    """The sizes of one graph, and the largest batch that its tensors allow.

    Args:
        gm: the graph.
        batch: the batches that it was captured for; None: all its sizes are numbers.
    """

    def __init__(self, gm: fx.GraphModule, batch: BatchRange | None) -> None:
        self._batch = batch
        inputs = gm.graph.find_nodes(op="placeholder")
        self._input = None if batch is None else inputs[batch.inputs[0]]
        self._example = 1 if self._input is None else shape_of(self._input)[0]
        self._variable = tirx.Var("batch", "int64")
        self._most = math.inf

    def expression(self, size: int | torch.SymInt) -> Any:
        """A size as TVM writes it in the network's main function."""
        return self._translate(size.node.expr) if isinstance(size, torch.SymInt) else tirx.IntImm("int64", int(size))

    def shape(self, node: fx.Node) -> list[Any]:
        """A node's shape in the network's main function."""
        sizes = node.meta["val"].shape
        return [self.expression(size) if isinstance(size, torch.SymInt) else int(size) for size in sizes]

    def kernel_shape(self, node: fx.Node) -> tuple[Any, ...]:
        """A node's shape for a kernel of ours: numbers, and a ``DynamicBatch`` in front if the batch is dynamic.

        Raises:
            UnsupportedOperatorError: another size than the first depends on the batch.
        """
        first, *rest = node.meta["val"].shape or (1,)
        if any(isinstance(size, torch.SymInt) for size in rest):
            raise UnsupportedOperatorError(
                f"operator {node.target} of layer {layer_name(node)!r} can't be compiled for a "
                f"dynamic batch: its shape {tuple(node.meta['val'].shape)} depends on it beyond the first axis"
            )
        if not isinstance(first, torch.SymInt):
            return tuple(int(size) for size in node.meta["val"].shape)
        return (DynamicBatch(example_size(first), self._least(first), self.expression(first)), *map(int, rest))

    def checked(self, shape: Sequence[Any]) -> list[Any]:
        """``main_shape``; such a tensor bounds the batch."""
        dynamic = [size for size in shape if isinstance(size, DynamicBatch)]
        if dynamic and self._batch is not None:
            elements = math.prod(hint_of(size) for size in shape)
            self._most = min(self._most, _LARGEST_INDEX * self._example // max(1, elements))
        return main_shape(shape)

    def limited(self) -> BatchRange | None:
        """The batches that the lowered network takes.

        Raises:
            UnsupportedOperatorError: an operator's translation asked for the batch as a number, which fixed it.
        """
        if self._input is not None and not isinstance(self.shape(self._input)[0], tirx.Var):
            raise UnsupportedOperatorError(
                f"the network can't be compiled for a dynamic batch: an operator was translated for {self._example}"
            )
        if self._batch is None or math.isinf(self._most):
            return self._batch
        most = int(self._most) if self._batch.most is None else min(self._batch.most, int(self._most))
        return dataclasses.replace(self._batch, most=most)

    def _least(self, size: torch.SymInt) -> int:
        assert self._batch is not None
        (symbol,) = size.node.expr.free_symbols
        return int(size.node.expr.subs(symbol, self._batch.least))

    def _translate(self, expression: Any) -> Any:
        if expression.is_Symbol:
            return self._variable
        if expression.is_Integer:
            return tirx.IntImm("int64", int(expression))
        operands = [self._translate(part) for part in expression.args]
        if expression.is_Add:
            return functools.reduce(operator.add, operands)
        if expression.is_Mul:
            return functools.reduce(operator.mul, operands)
        if isinstance(expression, FloorDiv):
            return tirx.floordiv(*operands)
        raise UnsupportedOperatorError(f"a size is {expression}, which is not compiled for a dynamic batch")


def main_shape(shape: Sequence[Any]) -> list[Any]:
    """A kernel's shape in the network's main function."""
    return [size.size if isinstance(size, DynamicBatch) else size for size in shape]
