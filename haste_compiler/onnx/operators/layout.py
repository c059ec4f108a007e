"""Operators that move, copy or make elements: reshaping, joining, splitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import DTYPES, Known, Result, Unsupported


def _axes(at: Site) -> list[Any] | None:
    axes = at.numbers(1) if at.version >= 13 else at.attribute("axes")
    return [axes] if isinstance(axes, int) else axes


def _reshape(at: Site) -> Result:
    shape, x = at.numbers(1), at.tensor(0)
    if not at.attribute("allowzero", 0):
        shape = [
            at.call(Tensor.size, x, axis) if isinstance(size, int) and size == 0 else size
            for axis, size in enumerate(shape)
        ]
    return at.call(torch.reshape, x, shape)


def _flatten(at: Site) -> Result:
    axis = at.attribute("axis", 1)
    if axis == 1 and (at.rank(0) or 0) >= 2:
        return at.call(torch.flatten, at.tensor(0), 1)
    return at.call(_matrix, at.tensor(0), axis)


def _matrix(x: Tensor, axis: int) -> Tensor:
    rows = 1
    for size in x.shape[: axis if axis >= 0 else x.dim() + axis]:
        rows *= size
    return x.reshape(rows, -1 if rows and x.numel() else x.numel() // max(rows, 1))


def _transpose(at: Site) -> Result:
    order = at.attribute("perm")
    return at.call(torch.permute, at.tensor(0), list(order)) if order else at.call(_reversed, at.tensor(0))


def _reversed(x: Tensor) -> Tensor:
    return x.permute(*reversed(range(x.dim())))


def _squeeze(at: Site) -> Result:
    axes = _axes(at)
    return at.call(torch.squeeze, at.tensor(0), *([] if axes is None else [tuple(axes)]))


def _unsqueeze(at: Site) -> Result:
    axes = _axes(at) or []
    if len(axes) == 1:
        return at.call(torch.unsqueeze, at.tensor(0), axes[0])
    return at.call(_expand_axes, at.tensor(0), axes)


def _expand_axes(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(at: Site) -> Result:
    return at.call(torch.cat, at.tensors(), at.attribute("axis", 0))


def _split(at: Site) -> Result:
    sizes = at.attribute("split") if at.version < 13 else at.numbers(1)
    parts = at.call(_pieces, at.tensor(0), sizes, at.attribute("axis", 0), len(at.outputs))
    return tuple(at.call(_item, parts, index) for index in range(len(at.outputs)))


def _pieces(x: Tensor, sizes: Sequence[int] | None, axis: int, count: int) -> tuple[Tensor, ...]:
    if sizes is not None:
        return torch.split(x, list(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // count), axis)


def _item(parts: tuple[Tensor, ...], index: int) -> Tensor:
    return parts[index]


def _slice(at: Site) -> Result:
    if at.version < 10:
        starts, ends, axes, steps = at.attribute("starts"), at.attribute("ends"), at.attribute("axes"), None
    else:
        starts, ends, axes, steps = (at.numbers(index) for index in (1, 2, 3, 4))
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    x = at.tensor(0)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if isinstance(step, fx.Node):
            raise Unsupported("with a step that depends on a size")
        x = at.call(_cut, x, axis, start, end, step)
    return x


def _cut(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step > 0:
        return x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
    size = x.shape[axis]
    start = min(max(start + size if start < 0 else start, -1), size - 1)
    end = min(max(end + size if end < 0 else end, -1), size - 1)
    # Backwards is forwards in the flipped tensor.
    flipped = slice(size - 1 - start, size - 1 - end, -step)
    return x.flip(axis)[(slice(None),) * (axis % x.dim()) + (flipped,)]


def _expand(at: Site) -> Result:
    return at.call(_broadcast, at.tensor(0), at.numbers(1))


def _broadcast(x: Tensor, shape: Sequence[int]) -> Tensor:
    rank = max(x.dim(), len(shape))
    own, wanted = [1] * (rank - x.dim()) + list(x.shape), [1] * (rank - len(shape)) + list(shape)
    return x.expand(
        [size if isinstance(want, int) and want == 1 else want for size, want in zip(own, wanted, strict=True)]
    )


def _tile(at: Site) -> Result:
    return at.call(Tensor.repeat, at.tensor(0), at.numbers(1))


def _constant_of_shape(at: Site) -> Result:
    value = at.attribute("value")
    known = Known(np.zeros(1, np.float32) if value is None else value, "value").tensor()
    return at.call(torch.full, at.numbers(0), known.item(), dtype=known.dtype)


def _range(at: Site) -> Result:
    return at.call(torch.arange, at.numbers(0), at.numbers(1), at.numbers(2))


def _eye_like(at: Site) -> Result:
    kind = at.attribute("dtype")
    return at.call(_diagonal, at.tensor(0), at.attribute("k", 0), None if kind is None else DTYPES.get(kind))


def _diagonal(x: Tensor, shift: int, dtype: torch.dtype | None) -> Tensor:
    rows, columns = torch.arange(x.shape[0], device=x.device), torch.arange(x.shape[1], device=x.device)
    return (columns[None] - rows[:, None] == shift).to(dtype or x.dtype)


def _triangle(at: Site) -> Result:
    shift = 0 if at.value(1) is None else at.numbers(1)
    function = torch.triu if at.attribute("upper", 1) else torch.tril
    return at.call(function, at.tensor(0), shift[0] if isinstance(shift, list) else shift)


def _depth_to_space(at: Site) -> Result:
    block, order = at.attribute("blocksize"), at.attribute("mode", "DCR")
    if order == "CRD":
        return at.call(F.pixel_shuffle, at.tensor(0), block)
    return at.call(_blocks_out, at.tensor(0), block)


def _blocks_out(x: Tensor, block: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, block, block, channels // block**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(at: Site) -> Result:
    if at.attribute("mode", "DCR") == "CRD":
        return at.call(F.pixel_unshuffle, at.tensor(0), at.attribute("blocksize"))
    return at.call(_blocks_in, at.tensor(0), at.attribute("blocksize"))


def _blocks_in(x: Tensor, block: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)


def _shape(at: Site) -> Result:
    raise Unsupported("of what isn't a tensor")


OPERATORS: dict[str, Operator] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
    "Trilu": _triangle,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    # ``sizes`` has answered where they can be.
    "Shape": _shape,
    "Size": _shape,
}
