"""Resizing: PyTorch's where it computes the same, otherwise a selection or a matrix for every axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import Result

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_CUBIC = -0.75
_Array = np.ndarray[Any, Any]


def _upsample(at: Site) -> Result:
    scales = at.numbers(1) if at.version >= 9 else at.attribute("scales")
    how = {"mode": at.attribute("mode", "nearest"), "coordinates": "asymmetric", "rounding": "floor"}
    return at.call(resize, at.tensor(0), scales, None, **how)


def _resize(at: Site) -> Result:
    mode = at.attribute("mode", "nearest")
    if at.version < 11:
        return at.call(resize, at.tensor(0), at.numbers(1), None, mode, "asymmetric", "floor")
    roi, scales, sizes = (at.numbers(index) for index in (1, 2, 3))
    coordinates = at.attribute("coordinate_transformation_mode", "half_pixel")
    return at.call(
        resize,
        at.tensor(0),
        scales or None,
        sizes or None,
        mode,
        coordinates,
        at.attribute("nearest_mode", "round_prefer_floor"),
        cubic=at.attribute("cubic_coeff_a", _CUBIC),
        exclude=bool(at.attribute("exclude_outside", 0)),
        antialias=bool(at.attribute("antialias", 0)),
        axes=at.attribute("axes"),
        policy=at.attribute("keep_aspect_ratio_policy", "stretch"),
        roi=roi if coordinates == "tf_crop_and_resize" else None,
        outside=at.attribute("extrapolation_value", 0.0),
    )


def resize(  # noqa: PLR0913  (the attributes of ONNX's Resize, each by name)
    x: Tensor,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    mode: str,
    coordinates: str,
    rounding: str,
    *,
    cubic: float = _CUBIC,
    exclude: bool = False,
    antialias: bool = False,
    axes: Sequence[int] | None = None,
    policy: str = "stretch",
    roi: Sequence[float] | None = None,
    outside: float = 0.0,
) -> Tensor:
    """ONNX's Resize.

    Args:
        x: any shape.
        scales, sizes: for each of the axes; one of them is given.
        mode: "nearest", "linear" or "cubic".
        coordinates: which place of the input an element of the output is taken from.
        rounding: which of two neighbours is the nearest.
        cubic: the cubic's coefficient.
        exclude: weights outside of the image are 0, and the others share what they had.
        antialias: widen the weights where the image becomes smaller.
        axes: which axes are resized; None: all.
        policy: how sizes keep the image's proportions.
        roi: starts, then ends, of the part of the image that is resized.
        outside: what stands outside of the image, under ``roi``.
    """
    axes = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    factors, lengths = _lengths([x.shape[axis] for axis in axes], scales, sizes, policy)
    if (
        found := _by_pytorch(x, axes, factors, lengths, mode, coordinates, rounding, scales, cubic, exclude, antialias)
    ) is not None:
        return found
    missing = None
    for place, (axis, factor, length) in enumerate(zip(axes, factors, lengths, strict=True)):
        size = x.shape[axis]
        if factor == 1 and size == length and roi is None:
            continue
        part = (roi[place], roi[place + len(axes)]) if roi is not None else (0.0, 1.0)
        where = _places(size, length, factor, coordinates, part)
        if mode == "nearest":
            x = x.index_select(axis, torch.from_numpy(_rounded(where, rounding).clip(0, size - 1)).to(x.device))
        else:
            weights = torch.from_numpy(_weights(where, size, factor, mode, cubic, exclude, antialias))
            x = torch.matmul(x.movedim(axis, -1), weights.to(x).T).movedim(-1, axis)
        if roi is not None:
            shape = [1] * x.dim()
            shape[axis] = length
            beyond = torch.from_numpy((where < 0) | (where > size - 1)).reshape(shape).to(x.device)
            missing = beyond if missing is None else missing | beyond
    return x if missing is None else torch.where(missing, torch.full_like(x, outside), x)


def _lengths(
    shape: Sequence[int], scales: Sequence[float] | None, sizes: Sequence[int] | None, policy: str
) -> tuple[list[float], list[int]]:
    """Factors and sizes of the output's axes."""
    if sizes is None:
        assert scales is not None
        return list(scales), [
            size if scale == 1 else math.floor(size * scale) for size, scale in zip(shape, scales, strict=True)
        ]
    factors = [1 if a == b else b / a for a, b in zip(shape, sizes, strict=True)]
    if policy == "stretch":
        return factors, list(sizes)
    one = min(factors) if policy == "not_larger" else max(factors)
    return [one] * len(factors), [math.floor(size * one + 0.5) for size in shape]


def _by_pytorch(  # noqa: PLR0913  (as resize)
    x: Tensor,
    axes: Sequence[int],
    factors: Sequence[float],
    lengths: Sequence[int],
    mode: str,
    coordinates: str,
    rounding: str,
    scales: Sequence[float] | None,
    cubic: float,
    exclude: bool,
    antialias: bool,
) -> Tensor | None:
    """The same by ``interpolate``; None where it computes something else."""
    if x.dim() not in _LINEAR or not x.is_floating_point() or not all(isinstance(each, int) for each in lengths[-1:]):
        return None
    by_axis = dict(zip(axes, zip(factors, lengths, strict=True), strict=True))
    if any(axis < 2 and by_axis[axis][0] != 1 for axis in by_axis):
        return None
    planes = list(range(2, x.dim()))
    size = [by_axis[axis][1] if axis in by_axis else x.shape[axis] for axis in planes]
    factor = [float(by_axis[axis][0]) if axis in by_axis else 1.0 for axis in planes]
    given = {"size": size} if scales is None else {"scale_factor": factor}
    if mode == "nearest":
        for axis, length, scale in zip(planes, size, factor, strict=True):
            where = _rounded(_places(x.shape[axis], length, scale, coordinates), rounding).clip(0, x.shape[axis] - 1)
            plain = np.floor(np.arange(length) * np.float32(x.shape[axis] / length)).astype(np.int64)
            if not np.array_equal(where, plain):
                return None
        return F.interpolate(x, size=size, mode="nearest")
    name = _LINEAR[x.dim()] if mode == "linear" else "bicubic"
    odd = exclude or antialias or (mode == "cubic" and (abs(cubic - _CUBIC) > 1e-6 or x.dim() != 4))
    half = coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and 1 not in size)
    if odd or not (half or coordinates == "align_corners"):
        return None
    if coordinates == "align_corners":
        if any(abs(x.shape[a] * f - n) > 1e-4 for a, f, n in zip(planes, factor, size, strict=True)):
            return None
        return F.interpolate(x, size=size, mode=name, align_corners=True)
    return F.interpolate(x, **given, mode=name, align_corners=False)


def _places(size: int, length: int, factor: float, coordinates: str, part: tuple[float, float] = (0.0, 1.0)) -> _Array:
    """Where in the input the elements of the output stand."""
    at = np.arange(length, dtype=np.float64)
    match coordinates:
        case "asymmetric":
            return at / factor
        case "align_corners":
            # The length before it was rounded down.
            exact = factor * size
            return at * (size - 1) / (exact - 1) if exact != 1 else at * 0
        case "half_pixel":
            return (at + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            return (at + 0.5) / factor - 0.5 if length > 1 else at * 0
        case "tf_half_pixel_for_nn":
            return (at + 0.5) / factor
        case "half_pixel_symmetric":
            moved = size / 2 * (1 - length / (factor * size))
            return moved + (at + 0.5) / factor - 0.5
        case "tf_crop_and_resize":
            start, end = part
            if length > 1:
                return start * (size - 1) + at * (end - start) * (size - 1) / (length - 1)
            return at + 0.5 * (start + end) * (size - 1)
    raise ValueError(f"coordinate_transformation_mode is {coordinates!r}")


def _rounded(where: _Array, rounding: str) -> _Array:
    match rounding:
        case "floor":
            found = np.floor(where)
        case "ceil":
            found = np.ceil(where)
        case "round_prefer_floor":
            found = np.ceil(where - 0.5)
        case "round_prefer_ceil":
            found = np.floor(where + 0.5)
        case _:
            raise ValueError(f"nearest_mode is {rounding!r}")
    return found.astype(np.int64)


def _weights(
    where: _Array, size: int, factor: float, mode: str, cubic: float, exclude: bool, antialias: bool
) -> _Array:
    """The matrix that resizes one axis: (outputs, inputs) float64."""
    stretch = min(factor, 1.0) if antialias else 1.0
    reach = (1 if mode == "linear" else 2) / stretch
    first = int(np.floor(where.min() - reach)) - 1
    last = int(np.ceil(where.max() + reach)) + 1
    inputs = np.arange(first, last + 1)
    distance = np.abs(where[:, None] - inputs[None]) * stretch
    weights = np.clip(1 - distance, 0, None) if mode == "linear" else _cubic(distance, cubic)
    if exclude:
        weights[:, (inputs < 0) | (inputs >= size)] = 0
    if exclude or antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(where), size))
    np.add.at(matrix.T, np.clip(inputs, 0, size - 1), weights.T)
    return matrix


def _cubic(distance: _Array, a: float) -> _Array:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _upsample}
