"""A place in the graph where an operator stands: what the operator is told, and how it writes PyTorch's calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx, nn

from haste_compiler.onnx.values import HALF, Known, Result, Sizes, Unsupported, Value

Number = Any
"""An int, a float, or a graph node that stands for one."""


class Writer(Protocol):
    """What writes the graph."""

    single: bool

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a function."""

    def layer(self, module: nn.Module, name: str, op: str, weight: str, *args: Any) -> fx.Node:
        """A call of a module, which becomes part of the network: named by its node or by its weights."""

    def constant(self, known: Known) -> fx.Node:
        """A constant as a tensor of the network's."""


@dataclass(frozen=True)
class Site:
    """One ONNX node.

    Attributes:
        op: the operator's name.
        name: the node's.
        version: of the operator set.
        attributes: by name, as Python has them; tensors are arrays.
        values: the operands.
        shapes: the operands' inferred shapes, as ``prepare.shape_of`` gives them.
        outputs: which of the outputs are asked for.
        types: the outputs' inferred element types; None where nothing is known.
        writer: what writes the graph.
    """

    op: str
    name: str
    version: int
    attributes: dict[str, Any]
    values: list[Value]
    shapes: list[tuple[int | str | None, ...] | None]
    outputs: list[bool]
    types: list[torch.dtype | None]
    writer: Writer

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it defaults to."""
        return self.attributes.get(name, default)

    def value(self, index: int) -> Value:
        """An operand; None where it is left out."""
        return self.values[index] if index < len(self.values) else None

    def known(self, index: int) -> Known | None:
        """An operand, if it is a constant."""
        value = self.value(index)
        return value if isinstance(value, Known) else None

    def rank(self, index: int) -> int | None:
        """The number of axes of an operand, if it is known."""
        value = self.value(index)
        if isinstance(value, Known | Sizes):
            return value.array.ndim
        shape = self.shapes[index] if index < len(self.shapes) else None
        return None if shape is None else len(shape)

    def tensor(self, index: int) -> fx.Node:
        """An operand as a tensor.

        Raises:
            Unsupported: it is left out.
        """
        node = self.optional(index)
        if node is None:
            raise Unsupported(f"it lacks input {index}")
        return node

    def optional(self, index: int) -> fx.Node | None:
        """An operand as a tensor; None where it is left out."""
        value = self.value(index)
        if isinstance(value, Known):
            return self.writer.constant(value)
        if isinstance(value, Sizes):
            dtype = torch.float32 if value.floating else torch.int64
            return self.call(torch.tensor, value.array.tolist(), dtype=dtype)
        return value

    def tensors(self) -> list[fx.Node]:
        """All operands as tensors."""
        return [self.tensor(index) for index in range(len(self.values))]

    def scalar(self, index: int) -> fx.Node | float | int:
        """An operand of a broadcasting operator: a constant of one element as a number, others as tensors."""
        known, others = self.known(index), [other for other in range(len(self.values)) if other != index]
        if known is None or known.array.size != 1 or known.array.dtype.name not in ("float32", "float16", "int64"):
            return self.tensor(index)
        # A number adds no axes: the others must have as many.
        wide = all((self.rank(other) or 0) >= known.array.ndim for other in others)
        if wide and any(isinstance(self.values[other], fx.Node) for other in others):
            return known.array.reshape(()).item()
        return self.tensor(index)

    def numbers(self, index: int, attribute: str | None = None) -> Any:
        """An operand (or, of old versions, an attribute) that says how: nested lists of numbers; None where left out.

        Raises:
            Unsupported: it is computed from values of the network's inputs.
        """
        value = self.value(index)
        if value is None:
            return None if attribute is None else self.attribute(attribute)
        if isinstance(value, Known | Sizes):
            return value.array.tolist()
        raise Unsupported(
            f"input {index} ({attribute or 'which says how it computes'}) depends on the network's inputs"
        )

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Write a call of a function."""
        return self.writer.call(function, *args, **kwargs)

    def layer(self, module: nn.Module, *args: Any) -> fx.Node:
        """Write a call of a module."""
        weight = self.known(1)
        return self.writer.layer(module, self.name, self.op, "" if weight is None else weight.name, *args)

    def weight(self, known: Known) -> nn.Parameter:
        """A constant as a module's parameter."""
        tensor = known.tensor()
        if self.writer.single and tensor.dtype in HALF:
            tensor = tensor.float()
        return nn.Parameter(tensor, requires_grad=False)


Operator = Callable[[Site], Result]
"""Writes one operator's calls; raises Unsupported."""


def simple(function: Callable[..., Any], **kwargs: Any) -> Operator:
    """The operator that is one call with all operands as tensors."""
    return lambda at: at.call(function, *at.tensors(), **kwargs)


def integers(values: Sequence[Any] | np.ndarray[Any, Any] | None, default: Sequence[int]) -> list[Any]:
    """A list of numbers, or what it defaults to."""
    return list(default) if values is None else list(values)
