"""The list of those tiles of a convolution's outputs that a frame of a stream needs computed anew.

A tile has a number, what its inputs have moved since it was last computed: in each frame the norm of the changes of the
pixels that it reads, over the norm that as many pixels have on average; of all that the convolution adds up, and summed
over the frames. By the triangle inequality its inputs are no further from those it was computed from. A tile is listed
when its number exceeds the tolerance, and begins at zero again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.kept import Planes
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

LEAST_PIXELS = 64
"""Of an output plane: a smaller one has too few tiles."""

Known = TypeVar("Known")
"""What is known of the pixels of images: planes, or labels."""


@dataclass(frozen=True)
class Tiles:
    """A convolution's output plane, cut into tiles; those at the right and lower end are moved back to fit.

    A pixel that two tiles cover is the later one's.

    Attributes:
        geometry: the convolution.
        batch: images.
        side: of a tile, in output pixels; as much of it as the plane has.
    """

    geometry: ConvGeometry
    batch: int
    side: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        height, width = self.geometry.output_size
        return min(self.side, height), min(self.side, width)

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across an image."""
        (height, width), (rows, columns) = self.geometry.output_size, self.size
        return -(-height // rows), -(-width // columns)

    @property
    def count(self) -> int:
        """Tiles of all images."""
        return self.batch * self.grid[0] * self.grid[1]

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the padded input that a tile reads."""
        rows, columns = (
            (pixels - 1) * stride + (kernel - 1) * dilation + 1
            for pixels, stride, kernel, dilation in zip(
                self.size, self.geometry.stride, self.geometry.kernel, self.geometry.dilation, strict=True
            )
        )
        return rows, columns

    def place(self, number: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, first row and first column of the outputs of a tile."""
        (down, across), (height, width), (rows, columns) = self.grid, self.geometry.output_size, self.size
        image, row, column = number // (down * across), number // across % down, number % across
        return (
            emit.bind(image),
            emit.bind(emit.minimum(row * rows, height - rows)),
            emit.bind(emit.minimum(column * columns, width - columns)),
        )

    def own(self, number: Expr) -> tuple[Expr, Expr]:
        """Rows and columns of a tile that are not a later one's."""
        (down, across), (height, width), (rows, columns) = self.grid, self.geometry.output_size, self.size
        ends = ((number // across % down, down, height, rows), (number % across, across, width, columns))
        mine: list[Expr] = []
        for index, tiles, pixels, side in ends:
            if pixels % side == 0:
                mine.append(side)
                continue
            mine.append(emit.bind(tirx.Select(index == tiles - 2, T.int32(pixels % side), T.int32(side))))
        return mine[0], mine[1]

    def corner(self, row: Expr, column: Expr) -> tuple[Expr, Expr]:
        """First row and column of the input, without padding, that a tile reads whose outputs begin there."""
        (sh, sw), (top, _, left, _) = self.geometry.stride, self.geometry.padding
        return emit.bind(row * sh - top), emit.bind(column * sw - left)


@dataclass(frozen=True)
class Source(Generic[Known]):
    """Images that tiles depend on.

    Attributes:
        known: of the images.
        window: rows and columns of them that a tile reads.
        step: rows and columns of them from one output to the next.
        before: rows and columns that the first tile's window begins before the image.
    """

    known: Known
    window: tuple[int, int]
    step: tuple[int, int]
    before: tuple[int, int]

    @property
    def count(self) -> int:
        """Pixels that a tile reads."""
        return self.window[0] * self.window[1]


def sources(tiles: Tiles, x: Known, residual: Known | None) -> list[Source[Known]]:
    """What a convolution's tiles depend on: windows of its input, and what is added to its outputs."""
    top, _, left, _ = tiles.geometry.padding
    read = [Source(x, tiles.window, tiles.geometry.stride, (top, left))]
    return read if residual is None else [*read, Source(residual, tiles.size, (1, 1), (0, 0))]


def list_tiles(tiles: Tiles, read: Sequence[Source[Planes]], moved: Expr, tolerance: Expr, listed: Expr) -> Expr:
    """Write the numbers of the tiles that are to be computed to ``listed``, in order. Returns how many there are.

    Args:
        tiles: the tiles.
        read: what they depend on.
        moved: buffer (tiles,), a number for each tile; it is brought up to date.
        tolerance: buffer (1,).
        listed: buffer (tiles,) of int32.
    """
    count = emit.Register(1, T.int32(0), "int32")
    down, across = tiles.grid
    with T.serial(0, tiles.batch) as image:
        scales = [_scale(source, image) for source in read]
        with T.serial(0, down) as i, T.serial(0, across) as j:
            number = emit.bind((image * down + i) * across + j)
            _, row, column = tiles.place(number)
            total = emit.Register(1, T.bind(moved[number]))
            for source, scale in zip(read, scales, strict=True):
                change = T.bind(_window_change(source, image, row, column))
                # What has not changed counts as nothing, whatever the image's size: that may be zero, or no number.
                norm = tirx.sqrt(change * scale)
                total.add(tirx.Select(change == T.float32(0), T.float32(0), norm))
            with T.If(total.get() <= tolerance[0]):
                with T.Then():
                    emit.store(moved, number, total.get())
                with T.Else():
                    emit.store(moved, number, T.float32(0))
                    emit.store(listed, count.get(), number)
                    count.add(T.int32(1))
    return emit.bind(count.get())


def _scale(source: Source[Planes], image: Expr) -> Expr:
    """One over what the pixels of a window have in sum on average."""
    total = emit.Register(8, 0.0)
    start = emit.bind(image * source.known.pixels)

    def piece(i: Expr, n: int) -> None:
        emit.store(total.buffer, 0, total.get(n) + emit.load(source.known.sizes, start + i, n), n)

    emit.sweep(source.known.pixels, 8, piece)
    share = source.count / source.known.pixels
    return T.bind(T.float32(1) / (total.total() * T.float32(share)))


def _window_change(source: Source[Planes], image: Expr, row: Expr, column: Expr) -> Expr:
    """The changes of the pixels that a tile reads, summed."""
    ranges = []
    for place, length, step, before, size in zip(
        (row, column), source.window, source.step, source.before, source.known.size, strict=True
    ):
        first = emit.bind(place * step - before)
        start, end = emit.bind(T.max(first, 0)), emit.bind(T.min(first + length, size))
        ranges.append((start, emit.bind(T.max(0, end - start))))
    (top, rows), (left, columns) = ranges
    total = emit.Register(1, T.float32(0))
    height, width = source.known.size
    with T.serial(0, rows) as i:
        line = emit.bind((image * height + top + i) * width + left)
        with T.serial(0, columns) as j:
            total.add(source.known.changes[line + j])
    return total.get()
