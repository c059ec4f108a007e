"""Concatenating NHWC activations along their channels: TVM's own looks up the source of every element.

A batch norm that follows, and its activation, are applied on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, each_row
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def concatenation_kernel(
    name: str,
    batch: Batch,
    size: tuple[int, int],
    channels: Sequence[int],
    lanes: int,
    *,
    affine: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x of ``channels[0]``, x of ``channels[1]``, ..., y), all (batch, height, width, their channels).

    With ``affine`` it takes scale and shift, of all channels, before y, and y is ``activation(scale * x + shift)``.
    """
    total = sum(channels)

    def body(*buffers: Expr) -> None:
        parts, maps, y = buffers[: len(channels)], buffers[len(channels) : -1], buffers[-1]

        def join(pixel: Expr) -> None:
            start = 0
            for x, count in zip(parts, channels, strict=True):
                source, target = emit.bind(pixel * count), emit.bind(pixel * total + start)
                _write_part(x, source, y, target, [(each, start) for each in maps], activation, count, lanes)
                start += count

        each_row((batch, *size), total, join)

    arguments = [(f"x{i}", (batch, *size, count), FLOAT32.dtype) for i, count in enumerate(channels)]
    constants = [(label, (total,), FLOAT32.dtype) for label in ("scale", "shift")] if affine else []
    return emit.kernel(name, [*arguments, *constants, ("y", (batch, *size, total), FLOAT32.dtype)], body)


def _write_part(
    x: Expr,
    source: Expr,
    y: Expr,
    target: Expr,
    maps: Sequence[tuple[Expr, int]],
    activation: str,
    count: int,
    lanes: int,
) -> None:
    """Write ``count`` channels of a pixel from x to y; ``maps`` are scale and shift, and where the channels begin."""

    def piece(i: Expr, n: int) -> None:
        value = emit.load(x, source + i, n)
        if maps:
            scale, shift = (emit.load(each, first + i, n) for each, first in maps)
            value = apply_activation(T.bind(value * scale + shift), activation, n)
        emit.store(y, target + i, value, n)

    emit.sweep(count, lanes, piece, UNROLL)
