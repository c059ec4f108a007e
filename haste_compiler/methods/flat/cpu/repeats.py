"""Which tiles of a convolution's outputs are computed, and whose copies the others are; see ``reference.tiles``."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.tile_list import Source, Tiles, sources
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.flat.cpu.table import Table, mixed
from haste_compiler.methods.flat.labels import HEADS, MOST_COMPUTED, PADDING, UNKNOWN

_LANES = 8


@dataclass(frozen=True)
class Labels:
    """Labels of images.

    Attributes:
        values: buffer, (N, H, W) flat.
        size: height and width.
    """

    values: Expr
    size: tuple[int, int]


def label_sources(tiles: Tiles, labels: Expr, residual_labels: Expr | None) -> list[Source[Labels]]:
    """The labels that a convolution's tiles depend on: of its input, and of what is added."""
    geometry = tiles.geometry
    added = None if residual_labels is None else Labels(residual_labels, geometry.output_size)
    return sources(tiles, Labels(labels, geometry.input_size), added)


class Repeats:
    """The lists of a convolution's tiles.

    Attributes:
        holders: buffer (tiles,): of every tile the one that reads the same.
        heads: buffer (N · HEADS,): of every image the tiles with the most copies; -1 where there are no more.
        listed: buffer (tiles,): the tiles that are computed besides, in order.
        length: a register, how many those are.
        plain: buffer (N,): whether all tiles of an image are computed, and nothing is known of its outputs.
        computed: buffer (N,): how many tiles of it are.
    """

    def __init__(self, tiles: Tiles, read: Sequence[Source[Labels]]) -> None:
        self._tiles, self._read = tiles, read
        self.per_image = tiles.grid[0] * tiles.grid[1]
        self.holders = T.alloc_buffer((tiles.count,), "int32")
        self.heads = T.alloc_buffer((tiles.batch * HEADS,), "int32")
        self.listed = T.alloc_buffer((tiles.count,), "int32")
        self.plain = T.alloc_buffer((tiles.batch,), "int32")
        self.computed = T.alloc_buffer((tiles.batch,), "int32")
        self._counts = T.alloc_buffer((self.per_image,), "int32")
        self.length = emit.Register(1, T.int32(0), "int32")

    def write(self) -> Expr:
        """Emit what makes the lists; returns how many images aren't plain."""
        some = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, self._tiles.batch) as image:
            self._no_heads(image)
            self.hold(image)
            with T.If(self.plain[image] == 0), T.Then():
                some.add(T.int32(1))
                self._choose_heads(image)
            self._list(image)
        return emit.bind(some.get())

    def hold(self, image: Expr) -> None:
        """Emit what finds an image's holders, unless it is plain: nothing is known of it, or too few are copies."""
        unknown = [
            source.known.values[image * math.prod(source.known.size)] == T.int32(UNKNOWN) for source in self._read
        ]
        most, of = MOST_COMPUTED
        emit.store(self.plain, image, T.int32(1))
        with T.If(tirx.Not(reduce(tirx.any, unknown))), T.Then():
            self._hold(image)
            with T.If(self.computed[image] * of <= self.per_image * most), T.Then():
                emit.store(self.plain, image, T.int32(0))
        with T.If(self.plain[image] == 1), T.Then():
            emit.store(self.computed, image, T.int32(self.per_image))

    def _no_heads(self, image: Expr) -> None:
        for head in range(HEADS):
            emit.store(self.heads, image * HEADS + head, T.int32(-1))

    def _hold(self, image: Expr) -> None:
        """Find of every tile the holder, and how many tiles each one holds."""
        length = sum(source.count for source in self._read)
        keys = T.alloc_buffer((self.per_image * length,), "int32")
        table = Table(self.per_image)
        computed, holder = emit.Register(1, T.int32(0), "int32"), emit.Register(1, T.int32(0), "int32")
        before = emit.Register(1, T.int32(0), "int32")
        down, across = self._tiles.grid
        with T.serial(0, down) as i, T.serial(0, across) as j:
            step = emit.bind(i * across + j)
            self._write_key((image, i, j), keys, emit.bind(step * length))

            def same(other: Expr) -> Expr:
                differing = emit.Register(_LANES, emit.splat(T.int32(0), _LANES), "int32")

                def piece(at: Expr, n: int) -> None:
                    bits = emit.load(keys, step * length + at, n) ^ emit.load(keys, other * length + at, n)
                    emit.store(differing.buffer, 0, differing.get(n) | bits, n)

                emit.sweep(length, _LANES, piece)
                return emit.bind(differing.fold(operator.or_)) == T.int32(0)

            whole = self._is_whole(i, j)
            # Most copies are the tile's before, and need no look into the table.
            again = emit.Register(1, T.int32(0), "int32")
            with T.If(before.get() == 1), T.Then():
                again.set(tirx.Select(same(step - 1), T.int32(1), T.int32(0)))
            with T.If(again.get() == 0), T.Then():
                holder.set(table.find(self._code(keys, emit.bind(step * length)), step, same, whole))
            computed.add(tirx.Select(holder.get() == step, T.int32(1), T.int32(0)))
            before.set(tirx.Select(whole, T.int32(1), T.int32(0)))
            emit.store(self._counts, step, T.int32(0))
            emit.store(self._counts, holder.get(), self._counts[holder.get()] + 1)
            emit.store(self.holders, image * self.per_image + step, image * self.per_image + holder.get())
        emit.store(self.computed, image, computed.get())

    def _is_whole(self, i: Expr, j: Expr) -> Expr:
        """Whether no later tile takes pixels of one."""
        whole: Expr = T.bool(True)
        for index, tiles, pixels, side in zip(
            (i, j), self._tiles.grid, self._tiles.geometry.output_size, self._tiles.size, strict=True
        ):
            if pixels % side:
                whole = tirx.all(whole, index != tiles - 2)
        return whole

    def _write_key(self, tile: tuple[Expr, Expr, Expr], keys: Expr, start: Expr) -> None:
        """Write the labels that a tile reads: the image, and which one down and across it is."""
        image, *indices = tile
        places = [
            emit.minimum(index * side, pixels - side)
            for index, side, pixels in zip(indices, self._tiles.size, self._tiles.geometry.output_size, strict=True)
        ]
        done = 0
        for source in self._read:
            (height, width), (rows, columns) = source.known.size, source.window
            row, column = (
                emit.bind(place * step - before)
                for place, step, before in zip(places, source.step, source.before, strict=True)
            )
            at, corner = emit.bind(start + done), emit.bind((image * height + row) * width + column)

            def copy(target: Expr, line: Expr, source: Source[Labels] = source) -> None:
                emit.sweep(
                    source.window[1],
                    _LANES,
                    lambda j, n: emit.store(keys, target + j, emit.load(source.known.values, line + j, n), n),
                )

            with T.If(tirx.all(row >= 0, row + rows <= height, column >= 0, column + columns <= width)):
                with T.Then(), T.serial(0, rows) as i:
                    copy(emit.bind(at + i * columns), emit.bind(corner + i * width))
                with T.Else(), T.serial(0, rows) as i, T.serial(0, columns) as j:
                    there = tirx.all(row + i >= 0, row + i < height, column + j >= 0, column + j < width)
                    target = emit.bind(at + i * columns + j)
                    with T.If(there):
                        with T.Then():
                            emit.store(keys, target, source.known.values[corner + i * width + j])
                        with T.Else():
                            emit.store(keys, target, T.int32(PADDING))
            done += source.count

    def _code(self, keys: Expr, start: Expr) -> Expr:
        """A code of the labels that a tile reads; of each row by itself, so that several are worked on at a time."""
        code = emit.Register(1, T.int32(0), "int32")
        done = 0
        for source in self._read:
            rows, columns = source.window
            with T.serial(0, rows) as i:
                line = emit.bind(start + done + i * columns)
                of_row = reduce(mixed, (keys[line + j] for j in range(columns)), T.int32(0))
                code.set(mixed(code.get(), of_row))
            done += source.count
        return emit.bind(code.get())

    def _choose_heads(self, image: Expr) -> None:
        """The tiles with the most copies, of equals the first; a count that was chosen is turned negative."""
        for head in range(HEADS):
            most, best = emit.Register(1, T.int32(1), "int32"), emit.Register(1, T.int32(-1), "int32")
            with T.serial(0, self.per_image) as step, T.If(self._counts[step] > most.get()), T.Then():
                most.set(self._counts[step])
                best.set(step)
            with T.If(best.get() >= 0), T.Then():
                emit.store(self._counts, best.get(), -self._counts[best.get()])
                emit.store(self.heads, image * HEADS + head, image * self.per_image + best.get())

    def _list(self, image: Expr) -> None:
        """List what is computed besides the heads."""
        with T.serial(0, self.per_image) as step:
            number = emit.bind(image * self.per_image + step)
            with T.If(self.plain[image] == 1), T.Then():
                emit.store(self.holders, number, number)
            head = reduce(tirx.any, (self.heads[image * HEADS + each] == number for each in range(HEADS)))
            with T.If(tirx.all(self.holders[number] == number, tirx.Not(head))), T.Then():
                emit.store(self.listed, self.length.get(), number)
                self.length.add(T.int32(1))
