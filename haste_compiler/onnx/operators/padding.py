"""Padding: the operator Pad, and the paddings that convolutions and pooling say in ONNX's ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from haste_compiler.onnx.site import Operator, Site, integers
from haste_compiler.onnx.values import Result, Unsupported


def explicit(at: Site, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int] | None:
    """What is padded: all begins, then all ends. None: it depends on the image's size, see ``pad_same``."""
    mode, axes = at.attribute("auto_pad", "NOTSET"), len(kernel)
    if mode == "VALID":
        return [0] * (2 * axes)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        if any(stride != 1 for stride in strides):
            return None
        totals = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        return same_split(totals, mode == "SAME_UPPER")
    return integers(at.attribute("pads"), [0] * (2 * axes))


def same_split(totals: Sequence[int], upper: bool) -> list[int]:
    """A total for each axis, halved: the odd one comes behind (upper) or before."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*small, *large] if upper else [*large, *small]


def padded(
    at: Site,
    x: fx.Node,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    fill: float | None = None,
) -> tuple[fx.Node, list[int]]:
    """Pad what PyTorch's operators can't, and say what is left for them: a padding for each axis, equal on both sides.

    ``fill`` is what pooling pads with: PyTorch's pools pad half a window at most, its convolutions anything.
    """
    pads, axes = explicit(at, kernel, strides, dilations), len(kernel)
    if pads is None:
        upper = at.attribute("auto_pad") == "SAME_UPPER"
        reach = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        return at.call(pad_same, x, reach, list(strides), upper, fill or 0.0), [0] * axes
    begins, ends = pads[:axes], pads[axes:]
    narrow = fill is None or all(2 * pad <= size for pad, size in zip(begins, kernel, strict=True))
    if begins == ends and narrow and min(begins) >= 0:
        return x, begins
    return at.call(F.pad, x, torch_order(begins, ends), "constant", fill or 0.0), [0] * axes


def torch_order(begins: Sequence[Any], ends: Sequence[Any]) -> list[Any]:
    """Paddings as PyTorch wants them: pairs, the last axis first."""
    return [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]


def pad_same(x: Tensor, reach: Sequence[int], strides: Sequence[int], upper: bool, fill: float) -> Tensor:
    """Pad so that there are ceil(size / stride) windows of this reach."""
    totals = [
        max((-(-size // stride) - 1) * stride + window - size, 0)
        for size, window, stride in zip(x.shape[2:], reach, strides, strict=True)
    ]
    pads = same_split(totals, upper)
    if not any(pads):
        return x
    return F.pad(x, torch_order(pads[: len(totals)], pads[len(totals) :]), "constant", fill)


def _pad(at: Site) -> Result:
    pads = at.numbers(1, "pads") if at.version >= 11 else at.attribute("pads")
    mode = at.attribute("mode", "constant")
    if at.version < 11:
        fill: Any = at.attribute("value", 0.0)
    else:
        fill = 0 if at.value(2) is None else at.numbers(2)
        fill = fill[0] if isinstance(fill, list) else fill
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Unsupported(f"in mode {mode!r}")
    half = len(pads) // 2
    axes = at.numbers(3) if at.version >= 18 and at.value(3) is not None else None
    return at.call(_pad_axes, at.tensor(0), pads[:half], pads[half:], axes, mode, fill)


def _pad_axes(
    x: Tensor, begins: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, mode: str, fill: float
) -> Tensor:
    rank = x.dim()
    before, after = [0] * rank, [0] * rank
    for axis, begin, end in zip(axes or range(rank), begins, ends, strict=True):
        before[axis], after[axis] = begin, end
    if not any(before) and not any(after):
        return x
    if mode == "constant":
        first = next(axis for axis in range(rank) if before[axis] or after[axis])
        if x.dtype == torch.bool:
            return F.pad(x.to(torch.uint8), torch_order(before[first:], after[first:]), value=fill).bool()
        return F.pad(x, torch_order(before[first:], after[first:]), value=fill)
    planes = {3: 1, 4: 2, 5: 3}.get(rank, 0)
    edge = rank - planes
    inner = [*before[edge:], *after[edge:]]
    fits = mode == "edge" or all(
        max(b, a) < n for b, a, n in zip(before[edge:], after[edge:], x.shape[edge:], strict=True)
    )
    if planes and mode != "wrap" and fits and min(inner) >= 0 and not any([*before[:edge], *after[:edge]]):
        return F.pad(x, torch_order(before[edge:], after[edge:]), "replicate" if mode == "edge" else mode)
    for axis in range(rank):
        if before[axis] or after[axis]:
            where = torch.arange(-before[axis], x.shape[axis] + after[axis], device=x.device)
            x = x.index_select(axis, _source(where, x.shape[axis], mode))
    return x


def _source(where: Tensor, size: int, mode: str) -> Tensor:
    """Which element stands at these places, some of which are outside."""
    if mode == "edge":
        return where.clamp(0, size - 1)
    if mode == "wrap":
        return where.remainder(size)
    period = max(2 * (size - 1), 1)
    where = where.remainder(period)
    return torch.minimum(where, period - where)


OPERATORS: dict[str, Operator] = {"Pad": _pad}
