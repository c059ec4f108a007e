"""Values as integers of 8 bits, or 7, times a scale."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.methods.quantized.bits import BITS

LEAST = 1e-30
"""What the largest value of a scale's is taken for where it is smaller, so that nothing is divided by zero."""

MOST_PRODUCTS = (2**31 - 1) // (255 * 127)
"""So many products of integers fit a sum of 32 bits, whatever they are."""


def most(bits: int, *, nonnegative: bool) -> int:
    """The largest integer of so many bits, of which one is the sign's if values may be negative."""
    return 2**bits - 1 if nonnegative else 2 ** (bits - 1) - 1


UNSIGNED = most(BITS, nonnegative=True)
"""The largest integer of 8 bits where no value is negative."""


def quantize(
    values: Tensor, axes: tuple[int, ...], *, nonnegative: bool = False, bits: int = BITS
) -> tuple[Tensor, Tensor]:
    """Round values to integers times a scale.

    With m the largest absolute value over ``axes`` and n the largest integer (``most``), the integers are
    ``round(x · (n / m))``, halves to even, and the scale is ``m / n``. The quotients are float32; the product is
    rounded once, as a fused multiply-add rounds it.

    Args:
        values: float32.
        axes: that share a scale.
        nonnegative: no value is negative.
        bits: of the integers.

    Returns:
        The integers, as float64, and the scales with size 1 along ``axes``: NaN or infinite where a value is.
    """
    largest = torch.amax(values.abs(), axes, keepdim=True)
    limit = most(bits, nonnegative=nonnegative)
    bounded = largest.clamp(min=LEAST)
    # A number divided by a tensor would be its reciprocal, rounded, times the number.
    factor = torch.full_like(bounded, limit) / bounded
    integers = (values.double() * factor.double()).round()
    return integers, bounded / limit
