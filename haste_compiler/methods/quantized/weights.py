"""Filters as integers of 8 bits, with a scale for each output channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import FILTER
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.bits import NARROW_BITS
from haste_compiler.methods.quantized.reference.direct import follow_each_other
from haste_compiler.methods.quantized.reference.rounding import most, quantize
from haste_compiler.methods.quantized.ternary import ternary_filters

MOST_SUM = (2**15 - 1) // most(NARROW_BITS, nonnegative=True)
"""What filters of one sign whose products with inputs of 7 bits are added up in 16 bits sum up to at most."""

_LANE = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
"""Of 8 neighbouring values of a row of taps: which of two sums of 16 bits takes each (``cpu.unit.Bytes``)."""


def quantize_filters(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 (K, C / groups, kh, kw), or (K, C) of a linear layer, to int8 of the same shape, and scales (K,)."""
    integers, scale = quantize(weight, tuple(range(1, weight.dim())))
    return integers.to(torch.int8), scale.flatten()


def filters_for(weight: Tensor, geometry: ConvGeometry, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """The filters that an algorithm multiplies by as they are written, as ``quantize_filters`` returns them.

    Winograd's algorithm takes them where a tile isn't finite.

    Args:
        weight: float32 (K, C / groups, kh, kw), or (K, C) of a linear layer.
        geometry: the convolution's.
        algorithm: that computes it; ternary only where the filters are.
    """
    if algorithm.ternary:
        found = ternary_filters(weight)
        assert found is not None
        return found
    if algorithm.is_narrow and not algorithm.size:
        return quantize_for_narrow(weight, geometry)
    return quantize_filters(weight)


def quantize_for_narrow(weight: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor]:
    """``quantize_filters`` for inputs of 7 bits: sums of four products fit 16 bits.

    The scale of an output channel whose filters would add up to more is as much larger.

    Args:
        weight: float32 (K, C / groups, kh, kw), or (K, C) of a linear layer.
        geometry: the convolution's; the order of its values says which are added up.
    """
    scale = quantize(weight, tuple(range(1, weight.dim())))[1]
    rows = rows_of_taps(weight, geometry)
    grown = limited_scale(rows, scale.reshape(-1, 1, 1)).amax(1)
    return _integers(weight, grown.reshape(scale.shape)), grown.flatten()


def quantize_transformed(weight: Tensor, size: int, *, narrow: bool = False) -> tuple[Tensor, Tensor]:
    """Float32 (K, C, 3, 3) to G F Gᵀ as int8 (K, C, size + 2, size + 2), and scales (K, size + 2, size + 2).

    Args:
        weight: the filters.
        size: m of F(m × m, 3 × 3).
        narrow: for inputs of 7 bits, see ``quantize_for_narrow``.
    """
    matrix = torch.tensor(FILTER[size], dtype=torch.float64, device=weight.device)
    # Rows and columns in one product.
    flat = weight.double().flatten(2) @ torch.kron(matrix, matrix).T
    transformed = flat.float().unflatten(2, (size + 2, size + 2))
    integers, scale = quantize(transformed, (1,))
    if not narrow:
        return integers.to(torch.int8), scale[:, 0]
    scale = limited_scale(transformed.movedim(1, -1), scale[:, 0, ..., None])[..., 0]
    return _integers(transformed, scale[:, None]), scale


def rows_of_taps(weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Filters as their values follow each other in memory, (K, rows, length)."""
    rows = weight.reshape(len(weight), -1, *geometry.kernel).permute(0, 2, 3, 1)
    return rows.flatten(2) if follow_each_other(geometry) else rows.flatten(1, 2)


def largest_sums(rows: Tensor) -> Tensor:
    """The largest sum of filters of one sign that are added up in 16 bits, of each row (..., length)."""
    groups = F.pad(rows, (0, -rows.shape[-1] % len(_LANE))).unflatten(-1, (-1, len(_LANE)))
    sums = [
        part[..., lane == _LANE].sum(-1).amax(-1)
        for part in (groups.clamp(min=0), (-groups).clamp(min=0))
        for lane in (0, 1)
    ]
    return torch.stack(sums).amax(0)


def check_sums(rows: Tensor) -> None:
    """Check that no sum of int8 filters, (..., length), leaves 16 bits when inputs of 7 bits are multiplied by them."""
    assert int(largest_sums(rows.int()).max()) <= MOST_SUM, "sums of products leave 16 bits"


def limited_scale(rows: Tensor, scale: Tensor) -> Tensor:
    """The scales (..., 1), grown where sums of filters (..., length) would be larger than ``MOST_SUM``."""
    # Rounding adds up to half an integer to each of four.
    return scale * (largest_sums(rows / scale)[..., None] / (MOST_SUM - 2)).clamp(min=1.0)


def _integers(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight.double() / scale.double()).round().to(torch.int8)
