"""A tensor that was computed, or came in, as a whole: what differs from the kept images is written into them."""

from __future__ import annotations

import operator
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.kept import Kept, Planes, plane_arguments
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def enter_kernel(
    name: str, batch: int, size: tuple[int, int], channels: int, lanes: int, *, nhwc: bool, tolerant: bool
) -> tirx.PrimFunc:
    """The kernel (x, tolerances, kept values NHWC, sizes, changes).

    Args:
        name: its symbol.
        batch: images.
        size: their height and width.
        channels: of a pixel.
        lanes: of a vector.
        nhwc: how x is stored; else NCHW.
        tolerant: leave a pixel as it is whose values differ by no more than the second tolerance times what a pixel has
            on average, by the norm of its channels. Else all that differs is written.
    """
    pixels = size[0] * size[1]

    def body(x: Expr, tolerances: Expr, values: Expr, sizes: Expr, changes: Expr) -> None:
        kept = Kept(values, Planes(sizes, changes, size), channels, lanes)
        limits = _limits(kept, batch, tolerances) if tolerant else None
        with T.parallel(0, batch * size[0]) as task:
            image, row = emit.bind(task // size[0]), emit.bind(task % size[0])
            with T.serial(0, size[1]) as column:
                place = emit.bind(row * size[1] + column)
                pixel = emit.bind(image * pixels + place)

                def value(c: Expr, n: int) -> Expr:
                    if nhwc:
                        return emit.load(x, pixel * channels + c, n)
                    at = (image * channels + c) * pixels + place
                    return x[at] if n == 1 else x[T.ramp(at, pixels, n)]

                if limits is None:
                    kept.write(pixel, value)
                else:
                    _write_unless_near(kept, pixel, value, T.bind(limits[image]))

    arguments = [
        ("x", (batch, *size, channels) if nhwc else (batch, channels, *size), FLOAT32.dtype),
        ("tolerances", (2,), FLOAT32.dtype),
        ("values", (batch, *size, channels), FLOAT32.dtype),
        *plane_arguments("y", batch, size),
    ]
    return emit.kernel(name, arguments, body)


def _limits(kept: Kept, batch: int, tolerances: Expr) -> Expr:
    """Of every image, the square of the norm that a pixel's step may have."""
    limits, planes = T.alloc_buffer((batch,), FLOAT32.dtype), kept.planes
    with T.serial(0, batch) as image:
        total = emit.Register(kept.lanes, 0.0)

        def piece(i: Expr, n: int) -> None:
            emit.store(total.buffer, 0, total.get(n) + emit.load(planes.sizes, image * planes.pixels + i, n), n)

        emit.sweep(planes.pixels, kept.lanes, piece)
        emit.store(limits, image, total.total() * (tolerances[1] * tolerances[1] * T.float32(1 / planes.pixels)))
    return limits


def _write_unless_near(kept: Kept, pixel: Expr, value: Callable[[Expr, int], Expr], limit: Expr) -> None:
    step = emit.Register(kept.lanes, 0.0)

    def differ(c: Expr, n: int) -> None:
        difference = T.bind(value(c, n) - emit.load(kept.values, pixel * kept.channels + c, n))
        emit.store(step.buffer, 0, step.get(n) + difference * difference, n)

    emit.sweep(kept.channels, kept.lanes, differ)
    # Without a limit every bit that differs counts.
    near = tirx.all(limit > T.float32(0), step.fold(operator.add) <= limit)
    with T.If(near):
        with T.Then():
            emit.store(kept.planes.changes, pixel, T.float32(0))
        with T.Else():
            kept.write(pixel, value)
