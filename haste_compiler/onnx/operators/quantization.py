"""Quantised numbers, computed with as floats that have the same steps."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import DTYPES, HALF, Result, Unsupported

_RANGES = {
    torch.int8: (-128, 127),
    torch.uint8: (0, 255),
    torch.int16: (-32768, 32767),
    torch.uint16: (0, 65535),
}


def _placed(values: Tensor, rank: int, axis: int) -> Tensor:
    """One value for each place on an axis, or one for all."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _check(at: Site) -> None:
    if at.attribute("block_size", 0):
        raise Unsupported("in blocks")


def _quantize(at: Site) -> Result:
    _check(at)
    zero, kind = at.optional(2), at.attribute("output_dtype", 0)
    known = at.known(2)
    declared = DTYPES.get(kind) if kind else at.types[0]
    dtype = known.tensor().dtype if known is not None else declared or torch.uint8
    if dtype not in _RANGES:
        raise Unsupported(f"to {str(dtype).removeprefix('torch.')}")
    return at.call(_steps, at.tensor(0), at.tensor(1), zero, at.attribute("axis", 1), dtype)


def _steps(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, dtype: torch.dtype) -> Tensor:
    steps = torch.round(x / _placed(scale, x.dim(), axis))
    if zero is not None:
        steps = steps + _placed(zero.to(steps.dtype), x.dim(), axis)
    return steps.clamp(*_RANGES[dtype]).to(dtype)


def _dequantize(at: Site) -> Result:
    _check(at)
    kind = at.attribute("output_dtype", 0)
    dtype = DTYPES.get(kind) if kind else None
    if at.writer.single and dtype in HALF:
        dtype = None
    return at.call(_reals, at.tensor(0), at.tensor(1), at.optional(2), at.attribute("axis", 1), dtype)


def _reals(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, dtype: torch.dtype | None) -> Tensor:
    steps = x.to(torch.float32)
    if zero is not None:
        steps = steps - _placed(zero.to(torch.float32), x.dim(), axis)
    return (steps * _placed(scale.to(torch.float32), x.dim(), axis)).to(dtype or scale.dtype)


OPERATORS: dict[str, Operator] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
