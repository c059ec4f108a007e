"""Filters as integers of 8 bits, with a scale for each output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.graph.winograd import FILTER
from haste_compiler.methods.quantized.reference.rounding import quantize


def quantize_filters(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 (K, C / groups, kh, kw), or (K, C) of a linear layer, to int8 of the same shape, and scales (K,)."""
    integers, scale = quantize(weight, tuple(range(1, weight.dim())))
    return integers.to(torch.int8), scale.flatten()


def quantize_transformed(weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Float32 (K, C, 3, 3) to G F Gᵀ as int8 (K, C, size + 2, size + 2), and scales (K, size + 2, size + 2)."""
    matrix = torch.tensor(FILTER[size], dtype=torch.float64, device=weight.device)
    transformed = torch.einsum("ia,kcab,jb->kcij", matrix, weight.double(), matrix).float()
    integers, scale = quantize(transformed, (1,))
    return integers.to(torch.int8), scale[:, 0]
