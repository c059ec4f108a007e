"""Weights of three values, {-a, 0, a}, with an ``a`` for each output channel.

Batch norm needs no folding before: it scales an output channel, and ``{-a, 0, a}`` times a number are such values too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from haste_compiler.prom.straight_through import straight_through

_LEAST = torch.finfo(torch.float32).tiny
"""What an ``a`` is taken for where weights are zeros, so that nothing is divided by zero."""


def ternarize_by_mean(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``round(w / a)`` within -1 and 1, a the mean of \\|w\\|: what is below half the mean becomes 0.

    Source: Ma et al., arXiv 2402.17764 (BitNet b1.58), section 2, there by matrix and here by output channel.

    Args:
        weight: float32 (K, ...).

    Returns:
        Integers -1, 0, 1 as float32 of the same shape, and a, float32 (K, 1, ...).
    """
    scale = _mean(weight.abs()).clamp(min=_LEAST)
    return _signs(weight, scale / 2), scale


def ternarize_by_threshold(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of what is above 0.7 of the mean of \\|w\\|, a the mean of \\|w\\| over these.

    Source: Li et al., arXiv 1605.04711 (ternary weight networks), equations 4 to 6, there by layer.

    Args:
        weight: float32 (K, ...).

    Returns:
        See ``ternarize_by_mean``.
    """
    size = weight.abs()
    signs = _signs(weight, 0.7 * _mean(size))
    kept = signs.abs()
    return signs, (_mean(size * kept) / _mean(kept).clamp(min=_LEAST)).clamp(min=_LEAST)


Ternarize = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Float32 (K, ...) to -1, 0, 1 of the same shape, and a, (K, 1, ...)."""


@torch.no_grad()
def ternarized(weight: Tensor, ternarize: Ternarize = ternarize_by_threshold) -> Tensor:
    """Float32 (K, ...) to {-a, 0, a} of the same shape; no gradient goes through it."""
    signs, scale = ternarize(weight)
    return signs.mul_(scale)


class Threshold(nn.Module):
    """A parametrization of weights by ``ternarize_by_threshold``, gradients straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        """Float32 (K, ...) to ternary weights of the same shape."""
        return straight_through(weight, ternarized(weight))


class Mean(nn.Module):
    """A parametrization of weights by ``ternarize_by_mean``, gradients straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        """Float32 (K, ...) to ternary weights of the same shape."""
        return straight_through(weight, ternarized(weight, ternarize_by_mean))


class Learned(nn.Module):
    """A parametrization of weights by ``round(w / a)`` within -1 and 1 whose a is trained.

    Source: Esser et al., arXiv 1902.08153 (LSQ), equations 1 to 3 and section 2.2, with Q_P = Q_N = 1, there by layer:
    a starts at that of ``ternarize_by_threshold``, and its gradient is divided by the root of the number of weights
    that share it. (LSQ starts at ``2 · mean|w|``, by which filters that are all as large would start as zeros.)

    Args:
        weight: float32 (K, ...), those to start from.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(ternarize_by_threshold(weight.detach())[1])

    def forward(self, weight: Tensor) -> Tensor:
        """Float32 (K, ...) to ternary weights of the same shape."""
        return _LearnedStep.apply(weight, self.scale)


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        positive = scale.abs().clamp(min=_LEAST)
        steps = weight / positive
        ctx.save_for_backward(steps, scale)
        return steps.clamp(-1, 1).round() * positive

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,), (steps, scale) = gradients, ctx.saved_tensors
        inside = steps.abs() < 1
        slope = torch.where(inside, steps.round() - steps, steps.sign()) * scale.sign()
        shared = steps[0].numel()
        to_scale = (gradient * slope).sum(tuple(range(1, steps.dim())), keepdim=True) / shared**0.5
        return gradient * inside, to_scale


def _threshold(weight: Tensor) -> nn.Module:
    return Threshold()


def _by_mean(weight: Tensor) -> nn.Module:
    return Mean()


QUANTIZERS: dict[str, Callable[[Tensor], nn.Module]] = {"twn": _threshold, "mean": _by_mean, "learned": Learned}
"""Parametrizations by name, made from the weights to start from."""


def _signs(weight: Tensor, threshold: Tensor) -> Tensor:
    """-1, 0 or 1 of every weight, 0 up to the threshold."""
    return weight.sign() * (weight.abs() > threshold)


def _mean(values: Tensor) -> Tensor:
    """Of each output channel, (K, 1, ...)."""
    return values.mean(tuple(range(1, values.dim())), keepdim=True)
