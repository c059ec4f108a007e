"""Concatenating NHWC activations along their channels: TVM's own looks up the source of every element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.emit import Expr
from haste_compiler.codegen.dynamic import Batch, images_of

_TASK_FLOATS = 1 << 14
_UNROLL = 4


def concatenation_kernel(
    name: str, batch: Batch, size: tuple[int, int], channels: Sequence[int], lanes: int
) -> tirx.PrimFunc:
    """The kernel (x of ``channels[0]``, x of ``channels[1]``, ..., y), all (batch, height, width, their channels)."""
    total = sum(channels)

    def body(*buffers: Expr) -> None:
        *parts, y = buffers

        def join(pixel: Expr) -> None:
            start = 0
            for x, count in zip(parts, channels, strict=True):
                _copy(x, y, emit.bind(pixel * count), emit.bind(pixel * total + start), count, lanes)
                start += count

        each_pixel(batch, size, total, join)

    shapes = [(batch, *size, count) for count in (*channels, total)]
    names = [*(f"x{i}" for i in range(len(channels))), "y"]
    return emit.kernel(name, [(label, shape, "float32") for label, shape in zip(names, shapes, strict=True)], body)


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


def _copy(x: Expr, y: Expr, source: Expr, target: Expr, count: int, lanes: int) -> None:
    def piece(i: Expr, n: int) -> None:
        emit.store(y, target + i, emit.load(x, source + i, n), n)

    emit.sweep(count, lanes, piece, _UNROLL)
