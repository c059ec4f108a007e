"""What rounding changes a layer's output by, measured on the layer alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.reference.direct import convolve_integers
from haste_compiler.methods.quantized.reference.plain import convolve_plainly
from haste_compiler.methods.quantized.reference.winograd import winograd_integers
from haste_compiler.methods.quantized.weights import filters_for, quantize_transformed

_SIDE = 24
"""Output pixels down and across that are looked at, in the middle of the plane."""


def relative_errors(
    x: Tensor, weight: Tensor, geometry: ConvGeometry, algorithms: Iterable[Algorithm], *, nonnegative: bool
) -> Iterator[tuple[Algorithm, float]]:
    """The relative error (2-norm) of a convolution of integers without its epilogue, of one algorithm after the other.

    Args:
        x: (N, C, H, W), float32, of any height and width; a piece of it is looked at.
        weight: float32 (K, C / groups, kh, kw).
        geometry: the convolution's.
        algorithms: which.
        nonnegative: no input is negative.
    """
    x, geometry = middle(x, geometry)
    exact = convolve_plainly(x, weight, torch.ones(len(weight)), geometry)
    norm = exact.norm().clamp(min=torch.finfo(torch.float32).tiny)

    def error(algorithm: Algorithm) -> float:
        filters = filters_for(weight, geometry, algorithm)
        if algorithm.size:
            transformed = quantize_transformed(weight, algorithm.size, narrow=algorithm.is_narrow)
            y = winograd_integers(x, transformed, filters, geometry, algorithm.size, algorithm.bits)
        else:
            y = convolve_integers(x, *filters, geometry, nonnegative=nonnegative, bits=algorithm.bits)
        return float((y - exact).norm() / norm)

    for algorithm in algorithms:
        yield algorithm, error(algorithm)


def middle(x: Tensor, geometry: ConvGeometry) -> tuple[Tensor, ConvGeometry]:
    """The pixels that some outputs in the middle read, and the same convolution on them; all, if there are few."""
    pieces = []
    for axis in (0, 1):
        read = (_SIDE - 1) * geometry.stride[axis] + (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1
        size = x.shape[2 + axis]
        start = max(0, (size - read) // 2)
        pieces.append(slice(start, min(size, start + read)))
    cut = x[:1, :, pieces[0], pieces[1]]
    return cut, replace(geometry, input_size=(cut.shape[2], cut.shape[3]))
