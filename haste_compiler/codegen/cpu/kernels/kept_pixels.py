"""Pixels of kept images that are computed from a few pixels of others: where none of these changed they stay.

Activations, arithmetic, joins of channels and resizing: what they compute is cheap, and what to compute is known
without a list.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation, prelu
from haste_compiler.codegen.cpu.kernels.kept import Kept, Planes, plane_arguments
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

_OPERATIONS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}


class Place:
    """Which pixels of an image an output pixel reads."""

    def arguments(self, size: tuple[int, int]) -> list[tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of the tables that say so, for an output of a size."""
        return []


@dataclass(frozen=True)
class Here(Place):
    """The pixel in the same place."""


@dataclass(frozen=True)
class Whole(Place):
    """The only pixel of an image of one, everywhere."""


@dataclass(frozen=True)
class Picked(Place):
    """The pixel of a row and a column from tables.

    Attributes:
        fill: the value where one of them is negative; None: none is.
    """

    fill: float | None

    def arguments(self, size: tuple[int, int]) -> list[tuple[tuple[int, ...], str]]:
        """See ``Place``: rows, columns."""
        return [((pixels,), "int32") for pixels in size]


@dataclass(frozen=True)
class Blended(Place):
    """Four pixels, of rows and columns from tables and the ones behind them, by the shares of the latter."""

    def arguments(self, size: tuple[int, int]) -> list[tuple[tuple[int, ...], str]]:
        """See ``Place``: rows, shares of the next rows, columns, shares of the next columns."""
        return [((pixels,), dtype) for pixels in size for dtype in ("int32", FLOAT32.dtype)]


@dataclass(frozen=True)
class SideBySide(Place):
    """The pixel whose channels are those of a block of outputs, row by row; the output's own channels of it.

    Attributes:
        block: its rows and columns.
    """

    block: tuple[int, int]


@dataclass(frozen=True)
class PixelSource:
    """Kept images that pixels are computed from.

    Attributes:
        size: their height and width.
        channels: of a pixel.
        place: which of their pixels an output reads.
    """

    size: tuple[int, int]
    channels: int
    place: Place


@dataclass(frozen=True)
class Pixelwise:
    """What is computed of every pixel.

    Attributes:
        kind: "copy": the only source; "join": the channels of all sources, one behind the other; "prelu": the only
            source, with the constant's slopes; "add", "sub", "mul", "div": two sources, or one and the constant.
        sources: at least one.
        constant: on which side of the operation a vector (channels,) stands: "left", "right", or "" for none.
        activation: applied at the end.
    """

    kind: str
    sources: tuple[PixelSource, ...]
    constant: str = ""
    activation: str = "none"

    @property
    def channels(self) -> int:
        """Of an output pixel."""
        counts = [source.channels for source in self.sources]
        place = self.sources[0].place
        if isinstance(place, SideBySide):
            return counts[0] // math.prod(place.block)
        return sum(counts) if self.kind == "join" else counts[0]


def pixels_arguments(work: Pixelwise, batch: int, size: tuple[int, int]) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: sources; their planes; their tables; the constant; tolerances; y,
    its sizes and its changes."""
    sources = list(enumerate(work.sources))
    return [
        *((f"x{i}", (batch, *source.size, source.channels), FLOAT32.dtype) for i, source in sources),
        *(plane for i, source in sources for plane in plane_arguments(f"x{i}", batch, source.size)),
        *(
            (f"table{i}_{number}", shape, dtype)
            for i, source in sources
            for number, (shape, dtype) in enumerate(source.place.arguments(size))
        ),
        *([("constant", (work.channels,), FLOAT32.dtype)] if work.constant else []),
        ("tolerances", (2,), FLOAT32.dtype),
        ("y", (batch, *size, work.channels), FLOAT32.dtype),
        *plane_arguments("y", batch, size),
    ]


def pixels_kernel(name: str, work: Pixelwise, batch: int, size: tuple[int, int], lanes: int) -> tirx.PrimFunc:
    """The kernel; see ``pixels_arguments``."""
    arguments = pixels_arguments(work, batch, size)

    def body(*buffers: Expr) -> None:
        named = dict(zip((label for label, _, _ in arguments), buffers, strict=True))
        kept = Kept(named["y"], Planes(named["y_sizes"], named["y_changes"], size), work.channels, lanes)
        with T.parallel(0, batch * size[0]) as task:
            image, row = emit.bind(task // size[0]), emit.bind(task % size[0])
            with T.serial(0, size[1]) as column:
                pixel = emit.bind(task * size[1] + column)
                reads = [_Read(i, source, named, (image, row, column)) for i, source in enumerate(work.sources)]
                change = emit.Register(1, T.float32(0))
                for read in reads:
                    read.add_changes(change)
                still = tirx.all(change.get() <= T.float32(0), named["tolerances"][0] >= T.float32(0))
                with T.If(still):
                    with T.Then():
                        emit.store(named["y_changes"], pixel, T.float32(0))
                    with T.Else():
                        _write(work, kept, pixel, reads, named.get("constant"))

    return emit.kernel(name, arguments, body)


def _write(work: Pixelwise, kept: Kept, pixel: Expr, reads: Sequence[_Read], constant: Expr | None) -> None:
    """Write an output pixel."""
    first = reads[0]
    if isinstance(first.place, Picked) and first.place.fill is not None:
        fill = first.place.fill
        with T.If(first.missing):
            with T.Then():
                kept.write(pixel, lambda c, n: emit.splat(float(fill), n))
            with T.Else():
                kept.write(pixel, first.value)
        return
    if work.kind == "join":
        kept.write_parts(pixel, [(read.channels, read.value) for read in reads])
        return

    def value(c: Expr, n: int) -> Expr:
        sides = [T.bind(read.value(c, n)) for read in reads]
        if constant is not None:
            sides.insert(0 if work.constant == "left" else 1, emit.load(constant, c, n))
        return apply_activation(_combined(work.kind, sides, n), work.activation, n)

    kept.write(pixel, value)


def _combined(kind: str, sides: Sequence[Expr], n: int) -> Expr:
    if kind == "copy":
        return sides[0]
    left, right = sides
    return prelu(left, right, n) if kind == "prelu" else _OPERATIONS[kind](left, right)


class _Read:
    """What an output pixel reads of a source."""

    def __init__(self, number: int, source: PixelSource, buffers: dict[str, Expr], at: tuple[Expr, Expr, Expr]) -> None:
        image, row, column = at
        self.x, self.changes = buffers[f"x{number}"], buffers[f"x{number}_changes"]
        self.channels, self.place = source.channels, source.place
        self.missing: Expr = None
        self.first: Expr = 0
        self.shares: list[Expr] = []
        height, width = source.size
        tables = [buffers[f"table{number}_{i}"] for i in range(len(source.place.arguments(source.size)))]
        if isinstance(source.place, Whole):
            pixels = [image]
        elif isinstance(source.place, Here):
            pixels = [(image * height + row) * width + column]
        elif isinstance(source.place, Picked):
            picked = emit.bind(tables[0][row]), emit.bind(tables[1][column])
            self.missing = T.min(*picked) < 0
            pixels = [(image * height + T.max(picked[0], 0)) * width + T.max(picked[1], 0)]
        elif isinstance(source.place, SideBySide):
            down, across = source.place.block
            pixels = [(image * height + row // down) * width + column // across]
            self.first = emit.bind((row % down * across + column % across) * (source.channels // (down * across)))
        else:
            first, left = emit.bind(tables[0][row]), emit.bind(tables[2][column])
            down, right = emit.bind(tables[1][row]), emit.bind(tables[3][column])
            lines = [emit.bind((image * height + line) * width) for line in (first, T.min(first + 1, height - 1))]
            pixels = [line + place for line in lines for place in (left, T.min(left + 1, width - 1))]
            self.shares = [emit.bind(a * b) for a in (1 - down, down) for b in (1 - right, right)]
        self.pixels = [emit.bind(pixel) for pixel in pixels]

    def add_changes(self, total: emit.Register) -> None:
        """Add how far the pixels moved with this frame."""
        for pixel in self.pixels:
            change = self.changes[pixel]
            total.add(change if self.missing is None else tirx.Select(self.missing, T.float32(0), change))

    def value(self, c: Expr, n: int) -> Expr:
        """The values of ``n`` channels from ``c`` on."""
        loaded = [emit.load(self.x, pixel * self.channels + self.first + c, n) for pixel in self.pixels]
        if not self.shares:
            return loaded[0]
        parts = [part * emit.splat(share, n) for part, share in zip(loaded, self.shares, strict=True)]
        return parts[0] + parts[1] + parts[2] + parts[3]
