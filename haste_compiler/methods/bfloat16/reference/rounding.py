"""float32 values as bfloat16, and back."""

from __future__ import annotations

import torch
from torch import Tensor

SPOILED_BITS = 0x7F7F8000
"""Bits of the smallest positive float32 that becomes infinity as bfloat16; those of infinity and NaN are greater."""


def rounded(values: Tensor) -> Tensor:
    """Float32 values rounded to bfloat16, to nearest, halves to even; as float32."""
    return values.to(torch.bfloat16).float()
