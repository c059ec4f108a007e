"""The activations that a convolution's epilogue can hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.errors import UnsupportedOperatorError

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


def apply_activation(y: Tensor, activation: str) -> Tensor:
    """Apply an activation named as the operators name it.

    Args:
        y: any shape.
        activation: "none", "relu", "relu6", "hardswish", "hardsigmoid", "silu", "sigmoid", "gelu" (exact), "tanh", or
            with numbers after colons "leaky_relu:slope", "clamp:low:high", "elu:alpha".

    Raises:
        UnsupportedOperatorError: the name is none of these, or its numbers are wrong.
    """
    name, *written = activation.split(":")
    try:
        numbers = [float(number) for number in written]
    except ValueError:
        numbers = []
    if not written and name in _PLAIN:
        return _PLAIN[name](y)
    match name, numbers:
        case "leaky_relu", [slope]:
            return F.leaky_relu(y, slope)
        case "clamp", [low, high]:
            return torch.clamp(y, low, high)
        case "elu", [alpha]:
            return F.elu(y, alpha)
    raise UnsupportedOperatorError(f"unknown activation {activation!r}")
