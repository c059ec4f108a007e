"""Filters of three values, as integers: what networks with ternary weights consist of."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.methods.quantized.reference.rounding import LEAST

_APART = 2.0**-21
"""By which share of the largest the sizes of an output channel's filters may differ: four units in the last place.

Batch norm that is folded multiplies equal sizes by the same number, so they stay equal; nothing else is asked for here
than that filters which were scaled in another order are recognised too.
"""


def ternary_filters(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Filters that are -a, 0 and a, with an ``a`` for each output channel, as -1, 0 and 1; None: they are not.

    They are exact, up to four units in the last place where an output channel's sizes differ by these.

    Args:
        weight: float32 (K, C / groups, kh, kw), or (K, C) of a linear layer.

    Returns:
        int8 of the same shape, and the scales a, (K,): the largest size of each output channel.
    """
    sizes = weight.abs().flatten(1)
    largest = sizes.amax(1)
    near = (sizes >= (largest * (1 - _APART))[:, None]) | (sizes == 0)
    if not bool(near.all()) or not bool(largest.isfinite().all()):
        return None
    return weight.sign().to(torch.int8), largest.clamp(min=LEAST)
