"""Bias correction: what rounding the filters moves the mean of every output channel by is taken back from the bias.

The mean of an input channel is known from the network's batch norms (``methods/moments.py``), so that this needs no
data: b'_k = b_k - Σ_c (Σ_taps (Ŵ_kc - W_kc)) E[x_c]. Near the image's edge, where taps read padding, it takes too much.
(Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, equation 16.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.graph.winograd import INPUT, OUTPUT


def corrected_bias(bias: Tensor | None, response: Tensor, weight: Tensor, mean: Tensor, groups: int) -> Tensor:
    """The bias (K,) of a layer of integers.

    Args:
        bias: float32 (K,), of the plain layer; None: it has none.
        response: what each filter returns for inputs that are one in a single channel, (K, C / groups).
        weight: of the plain layer, (K, C / groups, ...).
        mean: of each input channel, (C,).
        groups: of the convolution.
    """
    change = response - _sums_of_taps(weight)
    shift = torch.einsum("gkc,gc->gk", change.unflatten(0, (groups, -1)), mean.double().reshape(groups, -1)).flatten()
    return (-shift if bias is None else bias.double() - shift).float()


def direct_response(integers: Tensor, scale: Tensor) -> Tensor:
    """The response (K, C / groups) of int8 filters (K, C / groups, ...) with scales (K,)."""
    return _sums_of_taps(integers) * scale.double()[:, None]


def winograd_response(integers: Tensor, scale: Tensor, size: int) -> Tensor:
    """The response (K, C) of int8 filters (K, C, size + 2, size + 2) with scales by position, the mean of a tile."""
    inputs, outputs = (torch.tensor(table[size], dtype=torch.float64) for table in (INPUT, OUTPUT))
    # Bᵀ 1 B of a tile of ones, and the mean of Aᵀ Y A: both are products of a vector with itself.
    ones, mean = inputs.sum(1), outputs.mean(0)
    by_position = torch.outer(ones * mean, ones * mean)
    return torch.einsum("kcij,kij->kc", integers.double() * by_position, scale.double())


def _sums_of_taps(weight: Tensor) -> Tensor:
    """Filters (K, C / groups, ...) to float64 (K, C / groups)."""
    return weight.double().reshape(*weight.shape[:2], -1).sum(2)
