"""A convolution that computes tiles with alike windows once; see ``reference.tiles``.

The lists come first (``repeats``). Where they leave too little out, the plain kernel follows. Else the tiles with the
most copies are computed, then all others, in parallel: each is compared with these while it is in the caches. Last,
copies are written, and labels.

Sums are those of the plain kernel to the bit, by the kernels of streams that compute the tiles of a list.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation, prelu
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, dense_arguments, write_dense
from haste_compiler.codegen.cpu.kernels.listed import ListedDirect, ListedTiling, ListedWinograd, choose_listed
from haste_compiler.codegen.cpu.kernels.tile_list import Tiles
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import RegisterTile, WinogradTiling, register_tiles
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.flat.cpu.repeats import Repeats, label_sources
from haste_compiler.methods.flat.labels import HEADS, UNKNOWN


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """What follows a convolution's sums, in this order.

    Attributes:
        residual: whether something is added.
        activation: see ``apply_activation``.
        slope: whether values below zero are multiplied by one number a channel.
    """

    residual: bool = False
    activation: str = "none"
    slope: bool = False


def choose_flat(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, dense: DenseTiling) -> ListedTiling:
    """How tiles are computed for a convolution that ``dense`` is the plain kernel's tiling of: by the same filters."""
    listed = choose_listed(geometry, batch, unit, threads, dense)
    if isinstance(dense, WinogradTiling):
        return listed
    rows, columns = Tiles(geometry, batch, listed.side).size
    fitting = [
        tile
        for tile in register_tiles(rows, columns, geometry.out_channels // geometry.groups, unit)
        if tile.channels == dense.tile.channels and columns % tile.columns == 0
    ]
    return dataclasses.replace(listed, tile=min(fitting, key=_cycles_of_a_pixel))


def _cycles_of_a_pixel(tile: RegisterTile) -> float:
    return tile.cycles() / tile.pixels


def flat_arguments(
    geometry: ConvGeometry, batch: int, tiling: ListedTiling, epilogue: Epilogue
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes.

    They are those of the plain kernel but y; slopes; labels of the input, and of the residual; the tolerance; then what
    is written: y, its labels, of every image how many tiles were computed and how many of them took a head's values,
    and the squares of what those differed by, summed.
    """
    *given, y = dense_arguments(geometry, batch, tiling.plain, residual=epilogue.residual)
    labels = ("y_labels", (batch, *geometry.output_size), "int32")
    return [
        *given,
        *([("slope", (geometry.out_channels,), FLOAT32.dtype)] if epilogue.slope else []),
        ("x_labels", (batch, *geometry.input_size), "int32"),
        *([("residual_labels", *labels[1:])] if epilogue.residual else []),
        ("tolerance", (1,), FLOAT32.dtype),
        y,
        labels,
        ("counts", (batch, 2), "int32"),
        ("squares", (batch,), FLOAT32.dtype),
    ]


def flat_kernel(
    name: str, geometry: ConvGeometry, batch: int, tiling: ListedTiling, epilogue: Epilogue
) -> tirx.PrimFunc:
    """The kernel; see ``flat_arguments``."""
    arguments = flat_arguments(geometry, batch, tiling, epilogue)

    def body(*buffers: Expr) -> None:
        named = dict(zip((label for label, _, _ in arguments), buffers, strict=True))
        _Flat(geometry, batch, tiling, epilogue, named).write()

    return emit.kernel(name, arguments, body)


class _Flat:
    def __init__(
        self, geometry: ConvGeometry, batch: int, tiling: ListedTiling, epilogue: Epilogue, buffers: dict[str, Expr]
    ) -> None:
        self.geometry, self.batch, self.tiling, self.epilogue, self.buffers = geometry, batch, tiling, epilogue, buffers
        winograd = isinstance(tiling.plain, WinogradTiling)
        self.sums = (ListedWinograd if winograd else ListedDirect)(geometry, batch, tiling, "none", buffers)
        self.tiles, self.y, self.labels = self.sums.tiles, buffers["y"], buffers["y_labels"]
        self.pixels, self.channels = math.prod(self.tiles.size), geometry.out_channels
        self.plane = math.prod(geometry.output_size)
        self.lanes = tiling.tile.lanes
        self.repeats = Repeats(
            self.tiles, label_sources(self.tiles, buffers["x_labels"], buffers.get("residual_labels"))
        )
        self.final = T.alloc_buffer((self.tiles.count,), "int32")
        self.squares = T.alloc_buffer((self.tiles.count,), FLOAT32.dtype)
        self.norms = T.alloc_buffer((batch * HEADS,), FLOAT32.dtype)

    def write(self) -> None:
        """The lists, then what they say."""
        some = self.repeats.write()
        with T.If(some == 0):
            with T.Then():
                self._write_plainly(self.tiling.plain)
            with T.Else():
                self._write_tiles()

    def _write_plainly(self, tiling: DenseTiling) -> None:
        """All outputs by a plain kernel; nothing is known of them."""
        described = dense_arguments(self.geometry, self.batch, tiling, residual=self.epilogue.residual)
        taken = [self.buffers[name] for name, _, _ in described]
        write_dense(self.geometry, self.batch, tiling, self.epilogue.activation, taken)
        if self.epilogue.slope:
            rows, columns = self.batch * self.geometry.output_size[0], self.geometry.output_size[1]
            with T.parallel(0, rows) as row, T.serial(0, columns) as column:
                at = emit.bind((row * columns + column) * self.channels)
                emit.sweep(
                    self.channels,
                    self.lanes,
                    lambda c, n: emit.store(self.y, at + c, self._sloped(emit.load(self.y, at + c, n), c, n), n),
                    unroll=2,
                )
        with T.serial(0, self.batch) as image:
            emit.store(self.labels, image * self.plane, T.int32(UNKNOWN))
            emit.store(self.buffers["counts"], image * 2, T.int32(self.repeats.per_image))
            emit.store(self.buffers["counts"], image * 2 + 1, T.int32(0))
            emit.store(self.buffers["squares"], image, T.float32(0))

    def _sloped(self, value: Expr, c: Expr, n: int) -> Expr:
        if not self.epilogue.slope:
            return value
        return prelu(T.bind(value), emit.load(self.buffers["slope"], c, n), n)

    def _write_tiles(self) -> None:
        block, length = self.tiling.block, emit.bind(self.repeats.length.get())
        tasks = emit.bind((length + (block - 1)) // block)
        finite = T.alloc_buffer((-(-self.tiles.count // block) + 1,), "int32")
        with T.serial(0, self.tiles.count) as number:
            emit.store(self.final, number, self.repeats.holders[number])
            emit.store(self.squares, number, T.float32(0))
        self._write_heads(finite)
        with T.parallel(0, tasks) as task:
            first = emit.bind(task * block)
            mine = emit.bind(T.min(block, length - first))
            total = self._task(self.repeats.listed, first, mine, None)
            emit.store(finite, task + 1, self._is_finite(total))
        good = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, tasks + 1) as task:
            good.add(finite[task])
        with T.If(good.get() <= tasks):
            with T.Then():
                dense = self.tiling.plain
                self._write_plainly(dense.direct if isinstance(dense, WinogradTiling) else dense)
            with T.Else():
                self._write_copies()
                self._count()

    @staticmethod
    def _is_finite(total: Expr) -> Expr:
        """1 where a Winograd task's sums are finite; the direct algorithm says what PyTorch says anyway."""
        if total is None:
            return T.int32(1)
        return tirx.Select(tirx.abs(total.total()) <= T.float32(emit.LARGEST), T.int32(1), T.int32(0))

    def _write_heads(self, finite: Expr) -> None:
        """The heads one image after the other; in a loop of its own for the registers' sake."""
        emit.store(finite, 0, T.int32(1))
        chosen = T.alloc_buffer((HEADS,), "int32")
        with T.serial(0, self.batch) as image:
            count = emit.Register(1, T.int32(0), "int32")
            for head in range(HEADS):
                number = emit.bind(self.repeats.heads[image * HEADS + head])
                emit.store(self.norms, image * HEADS + head, T.float32(0))
                with T.If(number >= 0), T.Then():
                    emit.store(chosen, count.get(), number)
                    count.add(T.int32(1))
            with T.If(count.get() > 0), T.Then():
                total = self._task(chosen, 0, emit.bind(count.get()), image)
                emit.store(finite, 0, finite[0] & self._is_finite(total))

    def _task(self, listed: Expr, first: Expr, mine: Expr, of_heads: Expr | None) -> Expr:
        """Compute some tiles of a list; those of heads, of one image, are compared with the heads before them."""
        sums = T.alloc_buffer((self.tiling.block * self.pixels * self.channels,), FLOAT32.dtype)
        total = self.sums.sum_tiles(listed, first, mine, sums)
        with T.serial(0, mine) as step:
            number, start = emit.bind(listed[first + step]), emit.bind(step * (self.pixels * self.channels))
            self._finish(number, start, sums)
            image = emit.bind(number // self.repeats.per_image)
            self._compare(number, start, sums, image, HEADS if of_heads is None else step)
            if of_heads is not None:
                emit.store(self.norms, image * HEADS + step, self._square(sums, start))
            self._store(number, start, sums)
        return total

    def _finish(self, number: Expr, start: Expr, sums: Expr) -> None:
        """What follows a tile's sums, in place."""
        height, width = self.geometry.output_size
        image, top, left = self.tiles.place(number)
        rows, columns = self.tiles.size
        if not self.epilogue.residual and self.epilogue.activation == "none" and not self.epilogue.slope:
            return
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            pixel = emit.bind(((image * height + top + i) * width + left + j) * self.channels)
            read = emit.bind(start + (i * columns + j) * self.channels)

            def piece(c: Expr, n: int) -> None:
                value = emit.load(sums, read + c, n)
                if self.epilogue.residual:
                    value = value + emit.load(self.buffers["residual"], pixel + c, n)
                value = apply_activation(value, self.epilogue.activation, n)
                emit.store(sums, read + c, self._sloped(value, c, n), n)

            emit.sweep(self.channels, self.lanes, piece)

    def _square(self, sums: Expr, start: Expr) -> Expr:
        total = emit.Register(self.lanes, 0.0)

        def piece(at: Expr, n: int) -> None:
            value = T.bind(emit.load(sums, start + at, n))
            emit.store(total.buffer, 0, total.get(n) + value * value, n)

        emit.sweep(self.pixels * self.channels, self.lanes, piece)
        return total.fold(operator.add)

    def _compare(self, number: Expr, start: Expr, sums: Expr, image: Expr, before: Expr) -> None:
        """Find the first of the image's heads, of those ``before``, whose values a tile takes."""
        rows, columns = self.tiles.own(number)
        whole = tirx.all(rows == self.tiles.size[0], columns == self.tiles.size[1])
        tolerance = self.buffers["tolerance"][0]
        for each in range(HEADS):
            head = emit.bind(self.repeats.heads[image * HEADS + each])
            asked = tirx.all(
                *([] if isinstance(before, int) else [each < before]),
                head >= 0,
                whole,
                tolerance > T.float32(0),
                self.final[number] == number,
                self.final[T.max(head, 0)] == head,
            )
            with T.If(asked), T.Then():
                limit = emit.bind(tolerance * tolerance * self.norms[image * HEADS + each])
                # Most that are different are so in the first row. Nothing is near a head that isn't finite.
                square = emit.Register(1, self._difference(sums, start, head, (0, 1)))
                with T.If(square.get() <= limit), T.Then():
                    square.add(self._difference(sums, start, head, (1, self.tiles.size[0])))
                with T.If(tirx.all(square.get() <= limit, limit <= T.float32(emit.LARGEST))), T.Then():
                    emit.store(self.final, number, head)
                    emit.store(self.squares, number, square.get())

    def _difference(self, sums: Expr, start: Expr, head: Expr, rows: tuple[int, int]) -> Expr:
        """The square of the norm of what a tile's values and a head's differ by, from one row to before another."""
        height, width = self.geometry.output_size
        image, top, left = self.tiles.place(head)
        row_elements = self.tiles.size[1] * self.channels
        total = emit.Register(self.lanes, 0.0)
        with T.serial(rows[0], rows[1]) as i:
            line = emit.bind(((image * height + top + i) * width + left) * self.channels)
            read = emit.bind(start + i * row_elements)

            def piece(at: Expr, n: int) -> None:
                step = T.bind(emit.load(sums, read + at, n) - emit.load(self.y, line + at, n))
                emit.store(total.buffer, 0, total.get(n) + step * step, n)

            emit.sweep(row_elements, self.lanes, piece)
        return total.fold(operator.add)

    def _store(self, number: Expr, start: Expr, sums: Expr) -> None:
        """Write a computed tile, its own values or a head's."""
        with T.If(self.final[number] == number):
            with T.Then():
                height, width = self.geometry.output_size
                image, top, left = self.tiles.place(number)
                rows, columns = self.tiles.own(number)
                with T.serial(0, rows) as i, T.serial(0, columns) as j:
                    at = emit.bind(((image * height + top + i) * width + left + j) * self.channels)
                    read = emit.bind(start + (i * self.tiles.size[1] + j) * self.channels)
                    self._move(sums, read, at, self.channels)
            with T.Else():
                self._copy(emit.bind(self.final[number]), number)

    def _move(self, source: Expr, read: Expr, at: Expr, elements: int) -> None:
        emit.sweep(
            elements, self.lanes, lambda i, n: emit.store(self.y, at + i, emit.load(source, read + i, n), n), unroll=4
        )

    def _copy(self, source: Expr, number: Expr) -> None:
        """Write the values of a tile that was written to another one."""
        height, width = self.geometry.output_size
        image, top, left = self.tiles.place(number)
        _, from_top, from_left = self.tiles.place(source)
        rows, columns = self.tiles.own(number)
        with T.serial(0, rows) as i:
            at = emit.bind(((image * height + top + i) * width + left) * self.channels)
            read = emit.bind(((image * height + from_top + i) * width + from_left) * self.channels)
            if isinstance(columns, int):
                self._move(self.y, read, at, columns * self.channels)
            else:
                with T.serial(0, columns) as j:
                    self._move(self.y, read + j * self.channels, at + j * self.channels, self.channels)

    def _write_copies(self) -> None:
        """All tiles that weren't computed, and all labels."""
        down, across = self.tiles.grid
        height, width = self.geometry.output_size
        with T.parallel(0, self.batch * down) as line, T.serial(0, across) as column:
            number = emit.bind(line * across + column)
            holder = emit.bind(self.repeats.holders[number])
            with T.If(holder != number), T.Then():
                self._copy(holder, number)
            image, top, left = self.tiles.place(number)
            rows, columns = self.tiles.own(number)
            label = emit.bind((self.final[holder] - image * self.repeats.per_image) * self.pixels)
            with T.serial(0, rows) as i, T.serial(0, columns) as j:
                at = (image * height + top + i) * width + left + j
                emit.store(self.labels, at, label + i * self.tiles.size[1] + j)

    def _count(self) -> None:
        counts, per_image = self.buffers["counts"], self.repeats.per_image
        with T.serial(0, self.batch) as image:
            moved, squares = emit.Register(1, T.int32(0), "int32"), emit.Register(1, T.float32(0))
            with T.serial(0, per_image) as step:
                number = emit.bind(image * per_image + step)
                holder = self.repeats.holders[number]
                taken = tirx.all(holder == number, self.final[number] != number)
                moved.add(tirx.Select(taken, T.int32(1), T.int32(0)))
                squares.add(self.squares[number])
            emit.store(counts, image * 2, self.repeats.computed[image])
            emit.store(counts, image * 2 + 1, moved.get())
            emit.store(self.buffers["squares"], image, squares.get())
            with T.If(self.repeats.plain[image] == 1), T.Then():
                emit.store(self.labels, image * self.plane, T.int32(UNKNOWN))
