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
from haste_compiler.methods.quantized.reference.direct import by_pixels
from haste_compiler.methods.quantized.reference.plain import padded
from haste_compiler.methods.quantized.reference.rounding import LEAST, SIGNED, UNSIGNED
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.sites import plain_call
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.linear import LinearCall


def simulate(node: fx.Node, size: int, values: Mapping[fx.Node, Any]) -> Tensor:
    """What a plain layer returns if it is computed in integers.

    Args:
        node: the layer's, of ``haste::conv2d`` or ``haste::linear``.
        size: 0: as it is written; m: by F(m × m, 3 × 3).
        values: of the nodes that it reads.
    """
    call = plain_call(node)
    x, weight = values[call.x], values[call.weight]
    bias, residual = (None if each is None else values[each] for each in (call.bias, call.residual))
    most = UNSIGNED if is_nonnegative(call.x) else SIGNED
    if isinstance(call, LinearCall):
        y = F.linear(_rounded(x, (-1,), most), _rounded(weight, (1,), SIGNED), bias)
        return apply_epilogue(y, residual, call.activation)
    geometry = call.geometry()
    if size:
        y = _by_tiles(padded(x, geometry), weight, geometry.output_size, size)
        y = y if bias is None else y + bias[:, None, None]
    else:
        x = _rounded(x, (1,) if by_pixels(geometry) else (1, 3), most)
        y = _convolved(x, _rounded(weight, (1, 2, 3), SIGNED), bias, geometry)
    return apply_epilogue(y, residual, call.activation)


def _rounded(values: Tensor, axes: tuple[int, ...], most: int) -> Tensor:
    """Values as they are when those along ``axes`` share a scale, with integers up to ``most``."""
    largest = values.abs().amax(axes, keepdim=True).clamp(min=LEAST)
    return (values * (most / largest)).round_().mul_(largest / most)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    return F.conv2d(padded(x, geometry), weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)


def _by_tiles(images: Tensor, weight: Tensor, output: tuple[int, int], size: int) -> Tensor:
    """Convolve images, which have their zeros around them, by tiles that overhang the output plane."""
    side, (height, width) = size + 2, output
    down, across = -(-height // size), -(-width // size)
    images = F.pad(images, (0, across * size + 2 - images.shape[3], 0, down * size + 2 - images.shape[2]))
    tiles = images.unfold(2, side, size).unfold(3, side, size).permute(4, 5, 1, 0, 2, 3)
    # Rows and columns are transformed in one product, positions first: they are few.
    inputs, filters, outputs = (_both_ways(each[size]) for each in (INPUT, FILTER, OUTPUT))
    values = (inputs @ tiles.reshape(side * side, -1)).view(side * side, weight.shape[1], -1)
    transformed = (filters @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(side * side, *weight.shape[:2])
    products = _rounded(transformed, (2,), SIGNED) @ _rounded(values, (1,), SIGNED)
    y = outputs @ products.flatten(1)
    y = y.view(size, size, len(weight), len(images), down, across).permute(3, 2, 4, 0, 5, 1)
    return y.reshape(len(images), len(weight), down * size, across * size)[:, :, :height, :width]


def _both_ways(matrix: Matrix) -> Tensor:
    """The matrix that does to a flat square what ``matrix`` does to its rows and columns, float32."""
    one = torch.tensor(matrix, dtype=torch.float32)
    return torch.kron(one, one)
