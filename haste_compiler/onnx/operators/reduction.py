"""Reductions over axes, and what is found or summed along one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import Result

_NEW_AXES = {"ReduceSum": 13}
"""Since when the axes are an operand; since version 18 otherwise."""


def _reduction(at: Site) -> Result:
    operand = at.version >= _NEW_AXES.get(at.op, 18)
    axes = at.numbers(1) if operand else at.attribute("axes")
    if axes is not None and not isinstance(axes, list):
        axes = [axes]
    if not axes and at.attribute("noop_with_empty_axes", 0):
        return at.call(_elementwise, at.tensor(0), at.op) if at.op in _NOT_IDENTITY else at.value(0)
    return at.call(_reduce, at.tensor(0), at.op, list(axes or ()), bool(at.attribute("keepdims", 1)))


_NOT_IDENTITY = {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare", "ReduceLogSumExp"}


def _elementwise(x: Tensor, op: str) -> Tensor:
    return _REDUCTIONS[op](x[None], [0], False)


def _reduce(x: Tensor, op: str, axes: list[int], keep: bool) -> Tensor:
    axes = sorted(axis % x.dim() for axis in axes) or list(range(x.dim()))
    return _REDUCTIONS[op](x, axes, keep) if axes else _elementwise(x, op)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=None if x.is_floating_point() else x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.mean(x, axes, keep) if x.is_floating_point() else torch.mean(x.double(), axes, keep).to(x.dtype)


def _max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _extreme(torch.amax, x, axes, keep, False)


def _min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _extreme(torch.amin, x, axes, keep, True)


def _extreme(function: Callable[..., Tensor], x: Tensor, axes: list[int], keep: bool, least: bool) -> Tensor:
    if 0 not in [x.shape[axis] for axis in axes]:
        return function(x, axes, keep)
    if x.dtype == torch.bool:
        return torch.full_like(x.any(axes, keep), least)
    kind: Any = torch.finfo if x.is_floating_point() else torch.iinfo
    limits = kind(x.dtype)
    infinite = x.is_floating_point()
    value = (float("inf") if infinite else limits.max) if least else (float("-inf") if infinite else limits.min)
    # What is largest of nothing: below all others.
    return torch.full_like(x.sum(axes, keep, dtype=x.dtype), value)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep).to(torch.float64 if not x.is_floating_point() else x.dtype).sqrt().to(x.dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(_sum(x, axes, keep)).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x if x.is_floating_point() else x.double(), axes, keep).to(x.dtype)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _max,
    "ReduceMin": _min,
    "ReduceProd": _product,
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": _sum_square,
}


def _place(at: Site) -> Result:
    last, keep = bool(at.attribute("select_last_index", 0)), bool(at.attribute("keepdims", 1))
    return at.call(_found, at.tensor(0), at.op == "ArgMax", at.attribute("axis", 0), keep, last)


def _found(x: Tensor, largest: bool, axis: int, keep: bool, last: bool) -> Tensor:
    function = torch.argmax if largest else torch.argmin
    if last:
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
    return function(x, axis, keep)


def _running(at: Site) -> Result:
    axis = at.numbers(1)
    axis = axis[0] if isinstance(axis, list) else axis
    how = bool(at.attribute("exclusive", 0)), bool(at.attribute("reverse", 0))
    return at.call(_along, at.tensor(0), at.op == "CumProd", axis, *how)


def _along(x: Tensor, product: bool, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    y = x.flip(axis) if reverse else x
    y = torch.cumprod(y, axis, dtype=x.dtype) if product else torch.cumsum(y, axis, dtype=x.dtype)
    if exclusive:
        first = torch.full_like(y.narrow(axis, 0, 1), 1 if product else 0)
        y = torch.cat([first, y.narrow(axis, 0, y.shape[axis] - 1)], axis)
    return y.flip(axis) if reverse else y


def _top(at: Site) -> Result:
    count = at.attribute("k") if at.version < 10 else at.numbers(1)
    count = count[0] if isinstance(count, list) else count
    how = at.attribute("axis", -1), bool(at.attribute("largest", 1)), bool(at.attribute("sorted", 1))
    found = at.call(_ranked, at.tensor(0), count, *how)
    return tuple(at.call(_item, found, index) for index in (0, 1))


def _ranked(x: Tensor, count: int, axis: int, largest: bool, ordered: bool) -> tuple[Tensor, Tensor]:
    # Of equal elements ONNX takes the first: a stable sort does, topk may not.
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _item(pair: tuple[Tensor, ...], index: int) -> Tensor:
    return pair[index]


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "ArgMax": _place,
    "ArgMin": _place,
    "CumSum": _running,
    "CumProd": _running,
    "TopK": _top,
}
