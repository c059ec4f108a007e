"""Activations, and what normalises along one axis by exponentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from haste_compiler.onnx.site import Operator, Site, simple
from haste_compiler.onnx.values import Result, Unsupported

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _parametric(function: Callable[..., Any], name: str, default: float) -> Operator:
    return lambda at: at.call(function, at.tensor(0), at.attribute(name, default))


def _selu(at: Site) -> Result:
    alpha, gamma = at.attribute("alpha", _SELU[0]), at.attribute("gamma", _SELU[1])
    if abs(alpha - _SELU[0]) < 1e-6 and abs(gamma - _SELU[1]) < 1e-6:
        return at.call(torch.selu, at.tensor(0))
    return at.call(torch.mul, at.call(F.elu, at.tensor(0), alpha), gamma)


def _hard_sigmoid(at: Site) -> Result:
    alpha, beta = at.attribute("alpha", 0.2), at.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return at.call(F.hardsigmoid, at.tensor(0))
    scaled = at.call(torch.add, at.call(torch.mul, at.tensor(0), alpha), beta)
    return at.call(torch.clamp, scaled, 0.0, 1.0)


def _gelu(at: Site) -> Result:
    return at.call(F.gelu, at.tensor(0), approximate=at.attribute("approximate", "none"))


def _shrink(x: Tensor, bias: float, threshold: float) -> Tensor:
    moved = torch.where(x > threshold, x - bias, torch.zeros_like(x))
    return torch.where(x < -threshold, x + bias, moved)


def _prelu(at: Site) -> Result:
    slope, rank = at.known(1), at.rank(0)
    if slope is not None and rank is not None and rank > 1:
        shape = slope.array.shape
        channels = shape[-(rank - 1)] if len(shape) >= rank - 1 else 1
        if slope.array.size == 1 or (slope.array.size == channels and len(shape) <= rank):
            return at.call(F.prelu, at.tensor(0), at.call(torch.reshape, at.tensor(1), [-1]))
    x, weight = at.tensor(0), at.tensor(1)
    return at.call(_prelu_anywhere, x, weight)


def _prelu_anywhere(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _swish(at: Site) -> Result:
    alpha = at.attribute("alpha", 1.0)
    if alpha == 1:
        return at.call(F.silu, at.tensor(0))
    gate = at.call(torch.sigmoid, at.call(torch.mul, at.tensor(0), alpha))
    return at.call(torch.mul, at.tensor(0), gate)


def _along_axis(at: Site) -> Result:
    axis = at.attribute("axis", -1 if at.version >= 13 else 1)
    rank = at.rank(0)
    if at.version >= 13 or (rank is not None and axis in (-1, rank - 1)):
        return at.call(_ALONG_AXIS[at.op], at.tensor(0), axis)
    return at.call(_flattened, at.tensor(0), at.op, axis)


def _flattened(x: Tensor, op: str, axis: int) -> Tensor:
    """Before version 13, all axes from this one on were one."""
    axis %= x.dim()
    return _ALONG_AXIS[op](torch.flatten(x, axis), axis).reshape(x.shape)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


_ALONG_AXIS: dict[str, Callable[..., Tensor]] = {
    "Softmax": F.softmax,
    "LogSoftmax": F.log_softmax,
    "Hardmax": _hardmax,
}


def _dropout(at: Site) -> Result:
    if at.version < 12:
        train, ratio = None, at.attribute("ratio", 0.5)
    else:
        train, ratio = at.numbers(2), 0.5 if at.value(1) is None else at.numbers(1)
    if train and ratio:
        raise Unsupported("in training mode")
    mask = at.call(torch.ones_like, at.tensor(0), dtype=torch.bool) if len(at.outputs) > 1 else None
    return at.value(0), mask


OPERATORS: dict[str, Operator] = {
    "Relu": simple(torch.relu),
    "Sigmoid": simple(torch.sigmoid),
    "Softplus": simple(F.softplus),
    "Mish": simple(F.mish),
    "HardSwish": simple(F.hardswish),
    "Elu": _parametric(F.elu, "alpha", 1.0),
    "Celu": _parametric(F.celu, "alpha", 1.0),
    "LeakyRelu": _parametric(F.leaky_relu, "alpha", 0.01),
    "ThresholdedRelu": lambda at: at.call(F.threshold, at.tensor(0), at.attribute("alpha", 1.0), 0.0),
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Shrink": lambda at: at.call(_shrink, at.tensor(0), at.attribute("bias", 0.0), at.attribute("lambd", 0.5)),
    "PRelu": _prelu,
    "Swish": _swish,
    **dict.fromkeys(_ALONG_AXIS, _along_axis),
    "Dropout": _dropout,
}
