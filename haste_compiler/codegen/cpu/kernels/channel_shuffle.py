"""Interleaving channels of NHWC activations: the channel shuffle, after a join and before a split if need be."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import each_row
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr


def channel_shuffle_kernel(
    name: str,
    batch: Batch,
    size: tuple[int, int],
    channels: Sequence[int],
    groups: int,
    wanted: tuple[int, int],
    lanes: int,
    element: Element = FLOAT32,
) -> tirx.PrimFunc:
    """The kernel (parts ..., y), all (batch, height, width, their channels); see ``haste::channel_shuffle``.

    Args:
        name: its symbol.
        batch: images.
        size: height and width.
        channels: of each part; one part, or as many as there are groups, all alike.
        groups: how many.
        wanted: first and last + 1 of the shuffled channels that are written, divisible by ``groups``.
        lanes: elements of a vector.
        element: of the images.
    """
    first, count = wanted[0] // groups, (wanted[1] - wanted[0]) // groups

    def body(*buffers: Expr) -> None:
        *parts, y = buffers

        def shuffle(pixel: Expr) -> None:
            # Where each group's channels begin.
            if len(parts) == 1:
                sources = [(parts[0], pixel * channels[0] + channels[0] // groups * g + first) for g in range(groups)]
            else:
                sources = [(part, pixel * channels[0] + first) for part in parts]
            sources = [(part, emit.bind(start)) for part, start in sources]
            target = emit.bind(pixel * (count * groups))

            def piece(i: Expr, n: int) -> None:
                at = emit.bind(target + i * groups)
                values = [T.bind(emit.load(part, start + i, n)) for part, start in sources]
                if groups > emit.MOST_INTERLEAVED:
                    for g, value in enumerate(values):
                        emit.store(y, at + g, value, n, stride=groups)
                else:
                    for v, mixed in enumerate(emit.interleaved(values, n)):
                        emit.store(y, at + v * n, mixed, n)

            emit.sweep(count, lanes, piece)

        each_row((batch, *size), count * groups, shuffle)

    shapes = [(batch, *size, each) for each in (*channels, count * groups)]
    names = [*(f"x{i}" for i in range(len(channels))), "y"]
    return emit.kernel(name, [(label, shape, element.dtype) for label, shape in zip(names, shapes, strict=True)], body)
