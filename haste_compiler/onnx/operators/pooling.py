"""Pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from haste_compiler.onnx.operators.padding import explicit, padded
from haste_compiler.onnx.site import Operator, Site, integers
from haste_compiler.onnx.values import Result, Unsupported

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE: dict[int, Callable[..., Any]] = {
    3: F.adaptive_avg_pool1d,
    4: F.adaptive_avg_pool2d,
    5: F.adaptive_avg_pool3d,
}


def _geometry(at: Site) -> tuple[list[int], list[int], list[int]]:
    kernel = integers(at.attribute("kernel_shape"), [])
    axes = len(kernel)
    if axes not in _MAX:
        raise Unsupported(f"over {axes} axes")
    return kernel, integers(at.attribute("strides"), [1] * axes), integers(at.attribute("dilations"), [1] * axes)


def _max_pool(at: Site) -> Result:
    kernel, strides, dilations = _geometry(at)
    ceil, axes = bool(at.attribute("ceil_mode", 0)), len(kernel)
    indices = len(at.outputs) > 1 and at.outputs[1]
    x, padding = padded(at, at.tensor(0), kernel, strides, dilations, float("-inf"))
    if not indices:
        return at.call(_max, x, kernel, strides, padding, dilations, ceil)
    if at.attribute("storage_order", 0) or x is not at.tensor(0):
        raise Unsupported("with indices, in columns or unequally padded")
    found = at.call(_MAX[axes], x, kernel, strides, padding, dilations, ceil, return_indices=True)
    return at.call(_first, found), at.call(_indices, found, x)


def _max(
    x: Tensor, kernel: list[int], strides: list[int], padding: list[int], dilations: list[int], ceil: bool
) -> Tensor:
    if not x.is_floating_point():
        # PyTorch takes the largest of floats only; these hold all integers of 8 bits.
        return _MAX[len(kernel)](x.float(), kernel, strides, padding, dilations, ceil).to(x.dtype)
    return _MAX[len(kernel)](x, kernel, strides, padding, dilations, ceil)


def _first(pair: tuple[Tensor, Tensor]) -> Tensor:
    return pair[0]


def _indices(pair: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """PyTorch counts within a plane, ONNX within the tensor."""
    planes, plane = x.shape[0] * x.shape[1], x[0, 0].numel()
    starts = torch.arange(planes, device=x.device) * plane
    return pair[1] + starts.reshape(x.shape[:2] + (1,) * (x.dim() - 2))


def _average_pool(at: Site) -> Result:
    kernel, strides, dilations = _geometry(at)
    if any(dilation != 1 for dilation in dilations):
        raise Unsupported("with dilations")
    ceil, with_padding = bool(at.attribute("ceil_mode", 0)), bool(at.attribute("count_include_pad", 0))
    pads, axes = explicit(at, kernel, strides, dilations), len(kernel)
    fits = (
        pads is not None and pads[:axes] == pads[axes:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    )
    if pads is not None and fits:
        return at.call(_AVERAGE[axes], at.tensor(0), kernel, strides, pads[:axes], ceil, with_padding)
    if ceil:
        raise Unsupported("unequally padded, with ceil_mode")
    x, _ = padded(at, at.tensor(0), kernel, strides, dilations, 0.0) if pads is None else (None, None)
    if pads is None and x is not None:
        ones = at.call(_ones, at.tensor(0))
        covered, _ = padded(at, ones, kernel, strides, dilations, 0.0)
    else:
        order = [pad for axis in reversed(range(axes)) for pad in (pads[axis], pads[axes + axis])] if pads else []
        x = at.call(F.pad, at.tensor(0), order)
        covered = at.call(F.pad, at.call(_ones, at.tensor(0)), order)
    mean = at.call(_AVERAGE[axes], x, kernel, strides)
    if with_padding:
        return mean
    return at.call(torch.div, mean, at.call(_AVERAGE[axes], covered, kernel, strides))


def _ones(x: Tensor) -> Tensor:
    """What a window covers of an image, counted in a plane of ones."""
    return x.new_ones((1, 1, *x.shape[2:]))


def _lp_pool(at: Site) -> Result:
    kernel, strides, dilations = _geometry(at)
    if any(dilation != 1 for dilation in dilations):
        raise Unsupported("with dilations")
    x, padding = padded(at, at.call(torch.abs, at.tensor(0)), kernel, strides, dilations, 0.0)
    return at.call(_lp, x, at.attribute("p", 2), kernel, strides, padding, bool(at.attribute("ceil_mode", 0)))


def _lp(x: Tensor, p: int, kernel: Sequence[int], strides: Sequence[int], padding: Sequence[int], ceil: bool) -> Tensor:
    mean = _AVERAGE[len(kernel)](x**p, kernel, strides, padding, ceil)
    count = 1
    for size in kernel:
        count *= size
    return (mean * count) ** (1 / p)


def _global_average(x: Tensor) -> Tensor:
    if x.dim() in _ADAPTIVE:
        return _ADAPTIVE[x.dim()](x, 1)
    return x.mean(list(range(2, x.dim())), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def _global_lp(x: Tensor, p: int) -> Tensor:
    return x.abs().pow(p).sum(list(range(2, x.dim())), keepdim=True).pow(1 / p)


OPERATORS: dict[str, Operator] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": lambda at: at.call(_global_average, at.tensor(0)),
    "GlobalMaxPool": lambda at: at.call(_global_max, at.tensor(0)),
    "GlobalLpPool": lambda at: at.call(_global_lp, at.tensor(0), at.attribute("p", 2)),
}
