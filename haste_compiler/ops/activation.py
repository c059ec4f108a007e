"""The activations that an epilogue can hold: their names, PyTorch's operators for them, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.graph.nodes import argument, is_call, is_tensor

aten = torch.ops.aten

_REFERENCE: dict[str, Callable[..., Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "clamp": torch.clamp,
    "elu": F.elu,
}
"""What each computes, given the values and its numbers."""

_NUMBERS = {"leaky_relu": 1, "clamp": 2, "elu": 1}
"""How many numbers an activation takes; the others take none."""

OPERATORS = {
    "relu": aten.relu.default,
    "relu6": aten.relu6.default,
    "hardswish": aten.hardswish.default,
    "hardsigmoid": aten.hardsigmoid.default,
    "silu": aten.silu.default,
    "sigmoid": aten.sigmoid.default,
    "tanh": aten.tanh.default,
    "gelu": aten.gelu.default,
    "leaky_relu": aten.leaky_relu.default,
    "elu": aten.elu.default,
    "clamp": aten.clamp.default,
}
"""PyTorch's operator for each, given the values and its numbers."""

ACTIVATIONS = tuple(OPERATORS.values())
"""PyTorch's operators that are activations; see :func:`activation_name` for those with arguments."""

_PLAIN = {operator: name for name, operator in OPERATORS.items() if name not in (*_NUMBERS, "gelu")}
"""The name of each that takes the values alone."""


class Activation(NamedTuple):
    """An activation as operators write it, "name:number:number", taken apart.

    Attributes:
        name: "none", "relu", "relu6", "hardswish", "hardsigmoid", "silu", "sigmoid", "gelu" (exact), "tanh",
            "leaky_relu" (slope), "clamp" (low, high) or "elu" (alpha).
        numbers: its arguments.
    """

    name: str
    numbers: tuple[float, ...]

    @classmethod
    def parse(cls, written: str) -> Activation:
        """Take a written activation apart.

        Raises:
            UnsupportedOperatorError: the name is none of these, or its numbers are wrong.
        """
        name, *rest = written.split(":")
        try:
            numbers = tuple(float(number) for number in rest)
        except ValueError:
            numbers = (0.0,) * 3
        if name not in _REFERENCE or len(numbers) != _NUMBERS.get(name, 0):
            raise UnsupportedOperatorError(f"unknown activation {written!r}")
        return cls(name, numbers)


def apply_activation(y: Tensor, activation: str) -> Tensor:
    """Apply an activation as operators write it, see ``Activation``, to a tensor of any shape.

    Raises:
        UnsupportedOperatorError: there is no such activation.
    """
    name, numbers = Activation.parse(activation)
    return _REFERENCE[name](y, *numbers)


def apply_epilogue(output: Tensor, residual: Tensor | None, activation: str) -> Tensor:
    """Return ``activation(output + residual)``, all of the output's shape; contiguous, whatever the inputs are."""
    return apply_activation(output if residual is None else output + residual, activation).contiguous()


def activation_name(node: fx.Node) -> str | None:
    """The activation that a node of PyTorch's computes, as operators write it; None for any other node."""
    if node.op != "call_function" or not is_tensor(node):
        return None
    if node.target in _PLAIN:
        return _PLAIN[node.target]  # type: ignore[index]
    if is_call(node, aten.gelu.default):
        return "gelu" if argument(node, 1, "approximate", "none") == "none" else None
    if is_call(node, aten.leaky_relu.default):
        return f"leaky_relu:{float(argument(node, 1, 'negative_slope', 0.01))!r}"
    if is_call(node, aten.elu.default):
        scales = (argument(node, 2, "scale", 1), argument(node, 3, "input_scale", 1))
        return f"elu:{float(argument(node, 1, 'alpha', 1))!r}" if scales == (1, 1) else None
    if is_call(node, aten.clamp.default):
        low, high = argument(node, 1, "min"), argument(node, 2, "max")
        return None if low is None or high is None else f"clamp:{float(low)!r}:{float(high)!r}"
    return None
