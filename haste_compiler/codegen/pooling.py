"""A pooling, as kernels are told it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind, splat


@dataclass(frozen=True)
class Pooling:
    """A 2-d pooling.

    Attributes:
        kind: "max", "avg" or "adaptive_avg".
        input_size, output_size: image height and width before and after.
        kernel, stride, padding, dilation: as in PyTorch; not used by "adaptive_avg".
        count_include_pad, divisor: as in ``avg_pool2d``.
    """

    kind: str
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    count_include_pad: bool = True
    divisor: int | None = None


def window_range(pooling: Pooling, axis: int, position: Expr) -> tuple[Expr, Expr]:
    """First input index of the window that is on the image, and how many there are."""
    size, out = pooling.input_size[axis], pooling.output_size[axis]
    if pooling.kind == "adaptive_avg":
        start = bind(position * size // out)
        return start, bind(((position + 1) * size + out - 1) // out - start)
    step = pooling.dilation[axis]
    origin = bind(position * pooling.stride[axis] - pooling.padding[axis])
    skipped = bind((T.max(0, -origin) + step - 1) // step)
    end = bind(T.min(pooling.kernel[axis], T.max(0, (size - origin + step - 1) // step)))
    return bind(origin + skipped * step), bind(T.max(0, end - skipped))


def window_scale(
    pooling: Pooling, row: Expr, column: Expr, rows: tuple[Expr, Expr], columns: tuple[Expr, Expr]
) -> Expr | None:
    """One over the number of pixels an average counts; None for a maximum."""
    if pooling.kind == "max":
        return None
    count: Callable[[int, Expr, tuple[Expr, Expr]], Expr] = _padded_count(pooling)
    pixels = count(0, row, rows) * count(1, column, columns) if pooling.divisor is None else T.int32(pooling.divisor)
    return bind(T.float32(1) / tirx.Cast(FLOAT32.dtype, pixels))


def nan_maximum(value: Expr, most: Expr, lanes: int) -> Expr:
    """The larger of two, NaN if either is."""
    # NaN by its bits: TVM would simplify value != value to false.
    integer = "int32" if lanes == 1 else f"int32x{lanes}"
    bits = tirx.reinterpret(integer, value) & splat(T.int32(0x7FFFFFFF), lanes)
    is_nan = bits > splat(T.int32(0x7F800000), lanes)
    return tirx.Select(value > most, value, tirx.Select(is_nan, value, most))


def _padded_count(pooling: Pooling) -> Callable[[int, Expr, tuple[Expr, Expr]], Expr]:
    def count(axis: int, position: Expr, clipped: tuple[Expr, Expr]) -> Expr:
        if pooling.kind == "adaptive_avg" or not pooling.count_include_pad:
            return clipped[1]
        # The window with its padding, cut where even the padded image ends (ceil_mode).
        origin = position * pooling.stride[axis] - pooling.padding[axis]
        end = T.min(origin + pooling.kernel[axis], pooling.input_size[axis] + pooling.padding[axis])
        return end - origin

    return count
