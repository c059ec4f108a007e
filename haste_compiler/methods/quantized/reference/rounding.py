"""Values as integers of 8 bits times a scale."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-30
"""What the largest value of a scale's is taken for where it is smaller, so that nothing is divided by zero."""

SIGNED, UNSIGNED = 127, 255
"""The largest integer where values have signs, and where none is negative."""

MOST_PRODUCTS = (2**31 - 1) // (UNSIGNED * SIGNED)
"""So many products of integers fit a sum of 32 bits, whatever they are."""


def quantize(values: Tensor, axes: tuple[int, ...], *, nonnegative: bool = False) -> tuple[Tensor, Tensor]:
    """Round values to integers times a scale.

    With m the largest absolute value over ``axes`` and n 127, or 255 where no value is negative, the integers are
    ``round(x · (n / m))``, halves to even, and the scale is ``m / n``. The quotients are float32; the product is
    rounded once, as a fused multiply-add rounds it.

    Args:
        values: float32.
        axes: that share a scale.
        nonnegative: no value is negative.

    Returns:
        The integers, as float64, and the scales with size 1 along ``axes``: NaN or infinite where a value is.
    """
    largest = torch.amax(values.abs(), axes, keepdim=True)
    most = UNSIGNED if nonnegative else SIGNED
    bounded = largest.clamp(min=LEAST)
    # A number divided by a tensor would be its reciprocal, rounded, times the number.
    factor = torch.full_like(bounded, most) / bounded
    integers = (values.double() * factor.double()).round()
    return integers, bounded / most
