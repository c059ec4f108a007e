"""Filters as bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.graph.winograd import FILTER


def round_filters(weight: Tensor) -> Tensor:
    """Float32 filters of any shape to bfloat16."""
    return weight.to(torch.bfloat16)


def round_transformed(weight: Tensor, size: int) -> Tensor:
    """Float32 (K, C, 3, 3) to G F Gᵀ as bfloat16 (K, C, size + 2, size + 2)."""
    matrix = torch.tensor(FILTER[size], dtype=torch.float64, device=weight.device)
    return torch.einsum("ia,kcab,jb->kcij", matrix, weight.double(), matrix).to(torch.bfloat16)
