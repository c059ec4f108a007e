"""What a layer of integers returns, in float32 throughout: a stand-in for its operator that is as fast as the layer.

Values are rounded as the operator rounds them, and multiplied as numbers. Sums differ from the operator's, which are
exact, by float32's rounding; values where a scale isn't finite become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import FILTER, INPUT, OUTPUT, Matrix
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.reference.direct import by_pixels
from haste_compiler.methods.quantized.reference.plain import padded
from haste_compiler.methods.quantized.reference.rounding import LEAST, most
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.sites import geometry_of, plain_call
from haste_compiler.methods.quantized.weights import filters_for, limited_scale
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.linear import LinearCall

_SIGNED = most(BITS, nonnegative=False)


def simulate(node: fx.Node, algorithm: Algorithm, values: Mapping[fx.Node, Any]) -> Tensor:
    """What a plain layer returns if it is computed in integers.

    Args:
        node: the layer's, of ``haste::conv2d`` or ``haste::linear``.
        algorithm: how.
        values: of the nodes that it reads.
    """
    call = plain_call(node)
    x, weight = values[call.x], values[call.weight]
    bias, residual = (None if each is None else values[each] for each in (call.bias, call.residual))
    limit = most(algorithm.bits, nonnegative=is_nonnegative(call.x))
    geometry = geometry_of(node)
    if isinstance(call, LinearCall):
        y = F.linear(_rounded(x, (-1,), limit), _filters(weight, geometry, algorithm), bias)
        return apply_epilogue(y, residual, call.activation)
    if algorithm.size:
        y = _by_tiles(padded(x, geometry), weight, geometry.output_size, algorithm)
        y = y if bias is None else y + bias[:, None, None]
    else:
        x = _rounded(x, (1,) if by_pixels(geometry) else (1, 3), limit)
        y = _convolved(x, _filters(weight, geometry, algorithm), bias, geometry)
    return apply_epilogue(y, residual, call.activation)


def _rounded(values: Tensor, axes: tuple[int, ...], limit: int) -> Tensor:
    """Values as they are when those along ``axes`` share a scale, with integers up to ``limit``."""
    largest = values.abs().amax(axes, keepdim=True).clamp(min=LEAST)
    return (values * (limit / largest)).round_().mul_(largest / limit)


def _filters(weight: Tensor, geometry: ConvGeometry, algorithm: Algorithm) -> Tensor:
    """Filters (K, ...) as they are when they are integers."""
    if not algorithm.is_narrow and not algorithm.ternary:
        return _rounded(weight, tuple(range(1, weight.dim())), _SIGNED)
    integers, scale = filters_for(weight, geometry, algorithm)
    return integers.float() * scale.reshape(-1, *[1] * (weight.dim() - 1))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    return F.conv2d(padded(x, geometry), weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)


def _by_tiles(images: Tensor, weight: Tensor, output: tuple[int, int], algorithm: Algorithm) -> Tensor:
    """Convolve images, which have their zeros around them, by tiles that overhang the output plane."""
    size = algorithm.size
    side, (height, width) = size + 2, output
    down, across = -(-height // size), -(-width // size)
    images = F.pad(images, (0, across * size + 2 - images.shape[3], 0, down * size + 2 - images.shape[2]))
    tiles = images.unfold(2, side, size).unfold(3, side, size).permute(4, 5, 1, 0, 2, 3)
    # Rows and columns are transformed in one product, positions first: they are few.
    inputs, filters, outputs = (_both_ways(each[size]) for each in (INPUT, FILTER, OUTPUT))
    values = (inputs @ tiles.reshape(side * side, -1)).view(side * side, weight.shape[1], -1)
    transformed = (filters @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(side * side, *weight.shape[:2])
    if algorithm.is_narrow:
        scale = limited_scale(transformed, transformed.abs().amax(2, keepdim=True).clamp(min=LEAST) / _SIGNED)
        transformed = (transformed / scale).round_().mul_(scale)
    else:
        transformed = _rounded(transformed, (2,), _SIGNED)
    products = transformed @ _rounded(values, (1,), most(algorithm.bits, nonnegative=False))
    y = outputs @ products.flatten(1)
    y = y.view(size, size, len(weight), len(images), down, across).permute(3, 2, 4, 0, 5, 1)
    return y.reshape(len(images), len(weight), down * size, across * size)[:, :, :height, :width]


def _both_ways(matrix: Matrix) -> Tensor:
    """The matrix that does to a flat square what ``matrix`` does to its rows and columns, float32."""
    one = torch.tensor(matrix, dtype=torch.float32)
    return torch.kron(one, one)
