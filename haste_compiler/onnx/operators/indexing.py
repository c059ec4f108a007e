"""Gathering and scattering."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import Result, Unsupported

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _gather(at: Site) -> Result:
    axis, known = at.attribute("axis", 0), at.known(1)
    if known is not None and known.array.ndim == 0:
        return at.call(torch.select, at.tensor(0), axis, int(known.array))
    if known is not None and known.array.ndim == 1 and (known.array >= 0).all():
        return at.call(torch.index_select, at.tensor(0), axis, at.tensor(1))
    return at.call(_take, at.tensor(0), at.tensor(1), axis)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices from the end, counted from the start."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    axis %= x.dim()
    found = x.index_select(axis, _wrapped(indices, x.shape[axis]).reshape(-1))
    return found.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def _gather_elements(at: Site) -> Result:
    return at.call(_take_along, at.tensor(0), at.tensor(1), at.attribute("axis", 0))


def _take_along(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


def _gather_nd(at: Site) -> Result:
    return at.call(_take_places, at.tensor(0), at.tensor(1), at.attribute("batch_dims", 0))


def _take_places(x: Tensor, indices: Tensor, batched: int) -> Tensor:
    depth, batch = indices.shape[-1], x.shape[:batched]
    rows = x.reshape(-1, *x.shape[batched:])
    places = indices.reshape(rows.shape[0], -1, depth)
    index = [torch.arange(rows.shape[0], device=x.device)[:, None].expand(places.shape[:2])]
    index += [_wrapped(places[..., i], rows.shape[1 + i]) for i in range(depth)]
    return rows[tuple(index)].reshape(batch + indices.shape[batched:-1] + x.shape[batched + depth :])


def _scatter_elements(at: Site) -> Result:
    how = at.attribute("axis", 0), _REDUCTIONS.get(at.attribute("reduction", "none"))
    return at.call(_put_along, *at.tensors(), *how)


def _put_along(x: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str | None) -> Tensor:
    places = _wrapped(indices, x.shape[axis])
    if reduction is None:
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, reduction)


def _scatter_nd(at: Site) -> Result:
    return at.call(_put_places, *at.tensors(), _REDUCTIONS.get(at.attribute("reduction", "none")))


def _put_places(x: Tensor, indices: Tensor, updates: Tensor, reduction: str | None) -> Tensor:
    depth, place = indices.shape[-1], torch.zeros((), dtype=torch.int64, device=x.device)
    for i in range(depth):
        place = place * x.shape[i] + _wrapped(indices[..., i], x.shape[i])
    count = 1
    for size in x.shape[:depth]:
        count *= size
    rows, news = x.reshape(count, -1), updates.reshape(place.numel(), -1)
    where = place.reshape(-1, 1).expand_as(news)
    filled = rows.scatter(0, where, news) if reduction is None else rows.scatter_reduce(0, where, news, reduction)
    return filled.reshape(x.shape)


def _one_hot(at: Site) -> Result:
    depth = at.numbers(1)
    depth = depth[0] if isinstance(depth, list) else depth
    return at.call(_hot, at.tensor(0), int(depth), at.tensor(2), at.attribute("axis", -1))


def _hot(indices: Tensor, depth: int, values: Tensor, axis: int) -> Tensor:
    places = _wrapped(indices, depth).unsqueeze(axis)
    shape = [1] * places.dim()
    shape[axis] = depth
    return torch.where(places == torch.arange(depth, device=places.device).reshape(shape), values[1], values[0])


def _grid_sample(at: Site) -> Result:
    mode = at.attribute("mode", "linear" if at.version >= 20 else "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    if mode == "bicubic" and at.rank(0) not in (None, 4):
        raise Unsupported("cubic, of volumes")
    aligned = bool(at.attribute("align_corners", 0))
    return at.call(F.grid_sample, *at.tensors(), mode, at.attribute("padding_mode", "zeros"), aligned)


def _affine_grid(at: Site) -> Result:
    return at.call(F.affine_grid, at.tensor(0), at.numbers(1), bool(at.attribute("align_corners", 0)))


OPERATORS: dict[str, Operator] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "GridSample": _grid_sample,
    "AffineGrid": _affine_grid,
}
