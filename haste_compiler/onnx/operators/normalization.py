"""Normalisations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import Result, Unsupported


def _only_first(at: Site) -> None:
    if any(at.outputs[1:]):
        raise Unsupported("with more than its first output")


def _batch_norm(at: Site) -> Result:
    _only_first(at)
    if at.attribute("training_mode", 0):
        raise Unsupported("in training mode")
    if at.version < 9 and not at.attribute("spatial", 1):
        raise Unsupported("with statistics for each place")
    x, scale, bias, mean, variance = at.tensors()
    return at.call(F.batch_norm, x, mean, variance, scale, bias, eps=at.attribute("epsilon", 1e-5))


def _instance_norm(at: Site) -> Result:
    x, scale, bias = at.tensors()
    return at.call(F.instance_norm, x, weight=scale, bias=bias, eps=at.attribute("epsilon", 1e-5))


def _group_norm(at: Site) -> Result:
    x, scale, bias = at.tensors()
    groups, epsilon = at.attribute("num_groups"), at.attribute("epsilon", 1e-5)
    if at.version < 21:
        # These versions scale whole groups.
        return at.call(_scaled_groups, x, scale, bias, groups, epsilon)
    return at.call(F.group_norm, x, groups, scale, bias, epsilon)


def _scaled_groups(x: Tensor, scale: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    each = x.shape[1] // groups
    return F.group_norm(x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


def _layer_norm(at: Site) -> Result:
    axis, epsilon = at.attribute("axis", -1), at.attribute("epsilon", 1e-5)
    normal = at.call(_layers, at.tensor(0), at.tensor(1), at.optional(2), axis, epsilon)
    if not any(at.outputs[1:]):
        return normal
    return normal, at.call(_mean, at.tensor(0), axis), at.call(_inverse_deviation, at.tensor(0), axis, epsilon)


def _mean(x: Tensor, axis: int) -> Tensor:
    return x.mean(list(range(axis % x.dim(), x.dim())), keepdim=True)


def _inverse_deviation(x: Tensor, axis: int, epsilon: float) -> Tensor:
    return torch.rsqrt(_mean((x - _mean(x, axis)).square(), axis) + epsilon)


def _layers(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float) -> Tensor:
    shape = x.shape[axis % x.dim() :]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon) * scale
    return y if bias is None else y + bias


def _rms_norm(at: Site) -> Result:
    axis, epsilon = at.attribute("axis", -1), at.attribute("epsilon", 1e-5)
    return at.call(_root_mean_square, at.tensor(0), at.tensor(1), axis, epsilon)


def _root_mean_square(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> Tensor:
    return F.rms_norm(x, x.shape[axis % x.dim() :], None, epsilon) * scale


def _local_response(at: Site) -> Result:
    how = (at.attribute("size"), at.attribute("alpha", 1e-4), at.attribute("beta", 0.75), at.attribute("bias", 1.0))
    return at.call(_responses, at.tensor(0), *how)


def _responses(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    before, channels = (size - 1) // 2, x.shape[1]
    squares = F.pad((x * x).flatten(2), (0, 0, before, size - 1 - before))
    total = sum((squares[:, first : first + channels] for first in range(1, size)), squares[:, :channels])
    return x / (bias + alpha / size * total.reshape(x.shape)) ** beta


def _lp_norm(at: Site) -> Result:
    return at.call(_lengths, at.tensor(0), at.attribute("p", 2), at.attribute("axis", -1))


def _lengths(x: Tensor, p: int, axis: int) -> Tensor:
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


def _mean_variance(at: Site) -> Result:
    return at.call(_standard, at.tensor(0), list(at.attribute("axes", [0, 2, 3])))


def _standard(x: Tensor, axes: list[int]) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "LRN": _local_response,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
}
