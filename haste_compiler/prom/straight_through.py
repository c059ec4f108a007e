"""The straight-through estimator: rounding forwards, the identity backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """``rounded``, whose gradient goes to ``x`` as it is (Bengio et al., arXiv 1308.3432, section 4).

    Args:
        x: what was rounded.
        rounded: the same shape; no gradient goes to it.
    """
    return _StraightThrough.apply(x, rounded)
