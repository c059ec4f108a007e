"""The 2-norm of every channel of images NHWC over their pixels: channels in the lanes, pixels summed in blocks."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import UNROLL
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

_BLOCK = 64
"""Pixels that are summed apart: one sum of a whole map loses digits."""


def plane_norm_kernel(name: str, batch: Batch, pixels: int, channels: int, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y): the root of the sum of squares over the pixels.

    Args:
        name: its symbol.
        batch: images.
        pixels: of an image; x is (batch, pixels, channels), y (batch, channels).
        channels: of a pixel.
        lanes: of a vector.
    """
    slabs = 1
    while hint_of(batch) * slabs < 8 and channels % (2 * slabs * lanes) == 0:
        slabs *= 2
    slab = channels // slabs

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * slabs) as task:
            image, first = emit.bind(task // slabs), emit.bind(task % slabs * slab)
            pieces = emit.chunks(slab, lanes)
            for start in range(0, len(pieces), UNROLL):
                _sum(x, y, image, first, pieces[start : start + UNROLL])

    def _sum(x: Expr, y: Expr, image: Expr, first: Expr, pieces: list[tuple[int, int]]) -> None:
        """The norms of a few vectors of channels."""
        totals = [emit.Register(n, 0.0) for _, n in pieces]
        lines = [emit.Register(n, 0.0) for _, n in pieces]
        with T.serial(0, -(-pixels // _BLOCK)) as block:
            begin = emit.bind(block * _BLOCK)
            with T.serial(0, emit.bind(emit.minimum(_BLOCK, pixels - begin))) as pixel:
                source = emit.bind((image * pixels + begin + pixel) * channels + first)
                for (at, n), line in zip(pieces, lines, strict=True):
                    value = T.bind(emit.load(x, source + at, n))
                    line.add(value * value)
            for (_, n), line, total in zip(pieces, lines, totals, strict=True):
                total.add(line.get())
                line.set(emit.splat(0.0, n))
        for (at, n), total in zip(pieces, totals, strict=True):
            emit.store(y, image * channels + first + at, tirx.sqrt(total.get()), n)

    arguments = [("x", (batch, pixels, channels), FLOAT32.dtype), ("y", (batch, channels), FLOAT32.dtype)]
    return emit.kernel(name, arguments, body)
