"""``haste::linear``: a linear layer with an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from haste_compiler.ops.activation import apply_activation
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    """``activation(x @ weight.T + bias + residual)``.

    Args:
        x: (..., C).
        weight: (K, C).
        bias: (K,).
        residual: (..., K).
        activation: as :func:`haste_compiler.ops.activation.apply_activation` names it.

    Returns:
        (..., K).
    """
    y = F.linear(x, weight, bias)
    return apply_activation(y if residual is None else y + residual, activation)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


LINEAR = torch.ops.haste.linear.default


@dataclass(frozen=True)
class LinearCall(OpCall):
    """A call of ``haste::linear``."""

    OP: ClassVar[Any] = LINEAR

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    activation: str
