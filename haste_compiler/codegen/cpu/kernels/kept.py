"""Images that are kept from one frame of a stream to the next: pixels are written anew, how far they moved is noted.

Beside its values (NHWC) an image has two planes, a number for each pixel. Its size is the square of the norm of its
channels. Its change is the same of what the values of this frame differ by from those before: zero where no bit does,
and nowhere else, so that who looks for changes misses none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

LEAST_CHANGE = 1e-30
"""Of a pixel whose bits changed: the square of a small difference may be zero."""


def plane_arguments(name: str, batch: int, size: tuple[int, int]) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of a kept image's planes as a kernel takes them: sizes, and changes."""
    shape = (batch, *size)
    return [(f"{name}_sizes", shape, FLOAT32.dtype), (f"{name}_changes", shape, FLOAT32.dtype)]


@dataclass(frozen=True)
class Planes:
    """The two planes of kept images.

    Attributes:
        sizes, changes: buffers, (N, H, W) flat.
        size: height and width.
    """

    sizes: Expr
    changes: Expr
    size: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Kept:
    """Kept images that a kernel writes.

    Attributes:
        values: buffer, NHWC, flat.
        planes: beside it.
        channels: of a pixel.
        lanes: of a vector.
    """

    values: Expr
    planes: Planes
    channels: int
    lanes: int

    def clear_changes(self, images: int) -> None:
        """Note that no pixel has changed yet."""
        zero = lambda i, n: emit.store(self.planes.changes, i, emit.splat(0.0, n), n)  # noqa: E731
        emit.sweep(images * self.planes.pixels, self.lanes, zero)

    def write(self, pixel: Expr, value: Callable[[Expr, int], Expr]) -> None:
        """Write a pixel; ``value(channel, lanes)`` are its new values from a channel on."""
        self.write_parts(pixel, [(self.channels, value)])

    def write_parts(self, pixel: Expr, parts: Sequence[tuple[int, Callable[[Expr, int], Expr]]]) -> None:
        """Write a pixel; each of ``parts`` gives so many of its channels, counted from the part's first one."""
        at = emit.bind(pixel * self.channels)
        change, size = emit.Register(self.lanes, 0.0), emit.Register(self.lanes, 0.0)
        differing = emit.Register(self.lanes, emit.splat(T.int32(0), self.lanes), "int32")

        def put(place: Expr, new: Expr, n: int) -> None:
            old = T.bind(emit.load(self.values, place, n))
            step = T.bind(new - old)
            emit.store(change.buffer, 0, change.get(n) + step * step, n)
            emit.store(size.buffer, 0, size.get(n) + new * new, n)
            emit.store(differing.buffer, 0, differing.get(n) | (_bits(new, n) ^ _bits(old, n)), n)
            emit.store(self.values, place, new, n)

        first = 0
        for channels, value in parts:

            def piece(c: Expr, n: int, first: int = first, value: Callable[[Expr, int], Expr] = value) -> None:
                put(at + first + c, T.bind(value(c, n)), n)

            emit.sweep(channels, self.lanes, piece)
            first += channels
        noted = T.bind(change.get())
        least = emit.splat(LEAST_CHANGE, self.lanes)
        none = differing.get() == emit.splat(T.int32(0), self.lanes)
        noted = tirx.Select(none, emit.splat(0.0, self.lanes), tirx.Select(noted < least, least, noted))
        change.set(noted)
        emit.store(self.planes.changes, pixel, change.fold(operator.add))
        emit.store(self.planes.sizes, pixel, size.fold(operator.add))


def _bits(value: Expr, lanes: int) -> Expr:
    return tirx.reinterpret("int32" if lanes == 1 else f"int32x{lanes}", value)
