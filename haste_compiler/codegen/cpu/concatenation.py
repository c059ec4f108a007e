"""Concatenating NHWC activations along their channels: TVM's own looks up the source of every element.

A batch norm that follows, and its activation, are applied on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.activation import apply_activation
from haste_compiler.codegen.cpu.emit import Expr
from haste_compiler.codegen.dynamic import Batch, images_of

_TASK_FLOATS = 1 << 14
_UNROLL = 4


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

        each_pixel(batch, size, total, join)

    arguments = [(f"x{i}", (batch, *size, count), "float32") for i, count in enumerate(channels)]
    constants = [(label, (total,), "float32") for label in ("scale", "shift")] if affine else []
    return emit.kernel(name, [*arguments, *constants, ("y", (batch, *size, total), "float32")], body)


def each_pixel(batch: Batch, size: tuple[int, int], floats: int, body: Callable[[Expr], None]) -> None:
    """Run ``body(pixel)`` for all pixels of all images, in parallel; a pixel has ``floats`` values.

    A task has some rows of an image; a few of them at its end may be done twice.
    """
    height, width = size
    rows = max(1, min(height, _TASK_FLOATS // (width * floats)))
    blocks = math.ceil(height / rows)
    with T.parallel(0, images_of(batch) * blocks) as task:
        image = emit.bind(task // blocks)
        row = emit.bind(emit.minimum(task % blocks * rows, height - rows))
        first = emit.bind((image * height + row) * width)
        with T.serial(0, rows * width) as step:
            body(emit.bind(first + step))


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

    emit.sweep(count, lanes, piece, _UNROLL)
