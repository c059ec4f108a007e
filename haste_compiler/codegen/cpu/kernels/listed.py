"""A convolution of a stream: only those tiles of outputs that a frame needs anew, written into what is kept.

The list of tiles is made first (``tile_list``). A task takes some tiles of it. It copies the windows that they read,
where the image is padded, and sums each tile of output channels for all of them, so that filters are read once. Sums
are kept beside until all channels are there; then residual and activation follow, and the outputs are written over
those before.

Sums are made in the order of the plain kernel (``conv2d``), so outputs are the same to the bit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation
from haste_compiler.codegen.cpu.kernels.conv2d import (
    TileWriter,
    add_products,
    conv2d_arguments,
    pack_bias,
    pack_filters,
    start_sums,
    unrolled,
    write_conv2d,
)
from haste_compiler.codegen.cpu.kernels.depthwise import (
    DepthwiseRows,
    ImagePlane,
    depthwise_arguments,
    pack_depthwise_filters,
)
from haste_compiler.codegen.cpu.kernels.kept import Kept, Planes, plane_arguments
from haste_compiler.codegen.cpu.kernels.tile_list import Tiles, list_tiles, sources
from haste_compiler.codegen.cpu.kernels.winograd import WinogradWriter, pack_winograd_filters, winograd_arguments
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import ConvTiling, RegisterTile, WinogradTiling, register_tiles
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

_SIDE = 4
"""Of a tile that is summed as it is written: a larger one is seldom unchanged, a smaller one reads much more than it
writes."""

_FEWEST_TILES = 16
"""Of a task, if there are as many: fewer would read all filters for little."""

_MOST_SCRATCH_BYTES = 1 << 18
"""Of a task's windows and sums, if it has more tiles than the fewest."""


@dataclass(frozen=True)
class ListedTiling:
    """How a convolution of a stream is cut.

    Attributes:
        side: of a tile of outputs.
        tile: the register tile; rows and columns divide a tile's, but for Winograd's, where columns are tiles.
        block: tiles of one task.
        dense: the plain kernel's tiling: Winograd's algorithm computes the tiles if it computes that; None: the
            convolution is depthwise.
    """

    side: int
    tile: RegisterTile
    block: int
    dense: ConvTiling | WinogradTiling | None

    @property
    def plain(self) -> ConvTiling | WinogradTiling:
        """``dense``, of a convolution that isn't depthwise."""
        assert self.dense is not None
        return self.dense


def choose_listed(
    geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, dense: ConvTiling | WinogradTiling | None
) -> ListedTiling:
    """The tiling for a convolution that ``dense`` is the plain kernel's tiling of, None of a depthwise one: outputs are
    the same as its."""
    side = dense.size if isinstance(dense, WinogradTiling) else _SIDE
    tiles = Tiles(geometry, batch, side)
    rows, columns = tiles.size
    if isinstance(dense, WinogradTiling):
        tile, each = dense.tile, (side + 2) ** 2 * (geometry.in_channels + dense.tile.channels)
    else:
        tile = _register_tile(geometry, rows, columns, unit) if dense is not None else _vector(unit)
        each = math.prod(tiles.window) * geometry.in_channels
    each = (each + rows * columns * geometry.out_channels) * tile.element.bytes
    least = tile.columns if isinstance(dense, WinogradTiling) else 1
    share = -(-tiles.count // threads)
    return ListedTiling(side, tile, max(least, min(share, max(_FEWEST_TILES, _MOST_SCRATCH_BYTES // each))), dense)


def _register_tile(geometry: ConvGeometry, rows: int, columns: int, unit: VectorUnit) -> RegisterTile:
    """The register tile that sums a tile of outputs in the fewest modelled cycles."""
    channels = geometry.out_channels // geometry.groups

    def cycles(tile: RegisterTile) -> float:
        return tile.cycles() / tile.pixels * math.ceil(channels / tile.channels)

    fitting = register_tiles(rows, columns, channels, unit)
    return min((tile for tile in fitting if columns % tile.columns == 0), key=cycles)


def _vector(unit: VectorUnit) -> RegisterTile:
    """A vector of channels, of which a depthwise convolution takes as many as fit the registers."""
    return RegisterTile(1, 1, 1, unit.lanes)


def pack_listed(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, geometry: ConvGeometry, tiling: ListedTiling
) -> list[NDArray[np.float32]]:
    """(K, C/groups, kh, kw) and (K,) or None as the kernel takes them: what comes after x."""
    dense = tiling.dense
    if dense is None:
        return [pack_depthwise_filters(weight), np.zeros(len(weight), np.float32) if bias is None else bias]
    if not isinstance(dense, WinogradTiling):
        return [
            pack_filters(weight, geometry.groups, tiling.tile),
            pack_bias(bias, geometry.out_channels, geometry.groups, tiling.tile),
        ]
    biases = [pack_bias(bias, geometry.out_channels, 1, tile) for tile in (dense.direct.tile, tiling.tile)]
    return [
        pack_winograd_filters(weight, dense.size, tiling.tile),
        pack_filters(weight, 1, dense.direct.tile),
        max(biases, key=len),
    ]


def listed_arguments(
    geometry: ConvGeometry, batch: int, tiling: ListedTiling, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes.

    They are those of the plain kernel but y; planes of the input's, and of the residual's; the tolerance; then what is
    brought up to date: the tiles' numbers, y and its sizes, and how many tiles were listed; last, y's changes.
    """
    tiles = Tiles(geometry, batch, tiling.side)
    if tiling.dense is None:
        *given, y = depthwise_arguments(geometry, batch, residual=residual)
    elif isinstance(tiling.dense, WinogradTiling):
        *given, y = winograd_arguments(geometry, batch, tiling.dense, residual=residual)
    else:
        *given, y = conv2d_arguments(geometry, batch, tiling.tile, residual=residual)
    sizes, changes = plane_arguments("y", batch, geometry.output_size)
    return [
        *given,
        *plane_arguments("x", batch, geometry.input_size),
        *(plane_arguments("residual", batch, geometry.output_size) if residual else []),
        ("tolerance", (2,), FLOAT32.dtype),
        ("moved", (tiles.count,), FLOAT32.dtype),
        y,
        sizes,
        ("listed", (1,), "int32"),
        changes,
    ]


def listed_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: int,
    tiling: ListedTiling,
    unit: VectorUnit,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel; see ``listed_arguments``."""
    arguments = listed_arguments(geometry, batch, tiling, residual=residual)

    def body(*buffers: Expr) -> None:
        named = dict(zip((label for label, _, _ in arguments), buffers, strict=True))
        described = (geometry, batch, tiling, activation, named)
        if tiling.dense is None:
            ListedDepthwise(*described, unit).write()
        elif isinstance(tiling.dense, WinogradTiling):
            ListedWinograd(*described).write()
        else:
            ListedDirect(*described).write()

    return emit.kernel(name, arguments, body)


class Listed:
    """Emits what all algorithms have in common; ``sum_tiles`` is their own."""

    def __init__(
        self, geometry: ConvGeometry, batch: int, tiling: ListedTiling, activation: str, buffers: dict[str, Expr]
    ) -> None:
        self.geometry, self.tiling, self.tile, self.activation = geometry, tiling, tiling.tile, activation
        self.batch, self.buffers, self.x = batch, buffers, buffers["x"]
        self.tiles = Tiles(geometry, batch, tiling.side)
        self.channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.pixels = math.prod(self.tiles.size)

    @property
    def kept(self) -> Kept:
        """What is written."""
        planes = Planes(self.buffers["y_sizes"], self.buffers["y_changes"], self.geometry.output_size)
        return Kept(self.buffers["y"], planes, self.out_channels, self.tile.lanes)

    def write(self) -> None:
        """The list, then all tasks in parallel."""
        listed = T.alloc_buffer((self.tiles.count,), "int32")
        self.kept.clear_changes(self.batch)
        count = list_tiles(
            self.tiles,
            sources(self.tiles, self._planes("x", self.geometry.input_size), self._residual_planes()),
            self.buffers["moved"],
            self.buffers["tolerance"],
            listed,
        )
        emit.store(self.buffers["listed"], 0, count)
        self._tasks(listed, count)

    def _planes(self, name: str, size: tuple[int, int]) -> Planes:
        return Planes(self.buffers[f"{name}_sizes"], self.buffers[f"{name}_changes"], size)

    def _residual_planes(self) -> Planes | None:
        return self._planes("residual", self.geometry.output_size) if "residual" in self.buffers else None

    def _tasks(self, listed: Expr, count: Expr) -> None:
        with T.parallel(0, (count + (self.tiling.block - 1)) // self.tiling.block) as task:
            self._task(task, listed, count)

    def _task(self, task: Expr, listed: Expr, count: Expr) -> Expr:
        """Compute some tiles of the list; returns what ``sum_tiles`` does."""
        first = emit.bind(task * self.tiling.block)
        mine = emit.bind(T.min(self.tiling.block, count - first))
        sums = T.alloc_buffer((self.tiling.block * self.pixels * self.out_channels,), FLOAT32.dtype)
        result = self.sum_tiles(listed, first, mine, sums)
        with T.serial(0, mine) as step:
            self._finish(emit.bind(listed[first + step]), emit.bind(step * self.pixels), sums)
        return result

    def sum_tiles(self, listed: Expr, first: Expr, mine: Expr, sums: Expr) -> Expr:
        """Write the sums, with bias, of ``mine`` tiles of the list to ``sums``, (tiles, pixels, K).

        Returns:
            By Winograd's algorithm a register, the sum of all of them; else None.
        """
        raise NotImplementedError

    def _finish(self, number: Expr, pixel: Expr, sums: Expr) -> None:
        """Residual and activation of a tile's sums, which begin at ``pixel``; write its outputs."""
        height, width = self.geometry.output_size
        image, top, left = self.tiles.place(number)
        rows, columns = self.tiles.own(number)
        residual = self.buffers.get("residual")
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            at = emit.bind((image * height + top + i) * width + left + j)
            read = emit.bind((pixel + i * self.tiles.size[1] + j) * self.out_channels)

            def value(c: Expr, n: int) -> Expr:
                value = emit.load(sums, read + c, n)
                if residual is not None:
                    value = value + emit.load(residual, at * self.out_channels + c, n)
                return apply_activation(value, self.activation, n)

            self.kept.write(at, value)

    def _copy_window(self, number: Expr, window: Expr, start: Expr) -> None:
        """Copy what a tile reads, with the padding around it, to ``window`` from ``start`` on."""
        (height, width), (rows, columns), lanes = self.geometry.input_size, self.tiles.window, self.tile.lanes
        image, top, left = self.tiles.place(number)
        row, column = self.tiles.corner(top, left)
        row_elements = columns * self.channels

        def zero(at: Expr, elements: int) -> None:
            emit.sweep(elements, lanes, lambda i, n: emit.store(window, at + i, emit.splat(0.0, n), n))

        def copy(source: Expr, at: Expr, elements: int) -> None:
            emit.sweep(
                elements, lanes, lambda i, n: emit.store(window, at + i, emit.load(self.x, source + i, n), n), unroll=4
            )

        with T.serial(0, rows) as i:
            at, line = emit.bind(start + i * row_elements), emit.bind(row + i)
            source = emit.bind(((image * height + line) * width + column) * self.channels)
            with T.If(tirx.all(line >= 0, line < height, column >= 0, column + columns <= width)):
                with T.Then():
                    copy(source, at, row_elements)
                with T.Else(), T.serial(0, columns) as j:
                    inside = tirx.all(line >= 0, line < height, column + j >= 0, column + j < width)
                    pixel = emit.bind(at + j * self.channels)
                    with T.If(inside):
                        with T.Then():
                            copy(source + j * self.channels, pixel, self.channels)
                        with T.Else():
                            zero(pixel, self.channels)


class ListedDirect(Listed):
    """The convolution as it is written."""

    def __init__(
        self, geometry: ConvGeometry, batch: int, tiling: ListedTiling, activation: str, buffers: dict[str, Expr]
    ) -> None:
        super().__init__(geometry, batch, tiling, activation, buffers)
        self.copies = any(geometry.padding)
        self.row_elements = (self.tiles.window[1] if self.copies else geometry.input_size[1]) * self.channels
        self.group_channels = self.channels // geometry.groups
        self.slice = self.group_channels * geometry.taps * self.tile.channels

    def sum_tiles(self, listed: Expr, first: Expr, mine: Expr, sums: Expr) -> Expr:
        """See ``Listed``."""
        rows, columns = self.tiles.size
        window_elements = math.prod(self.tiles.window) * self.channels
        source = self.x
        if self.copies:
            source = T.alloc_buffer((self.tiling.block * window_elements,), FLOAT32.dtype)
            with T.serial(0, mine) as step:
                self._copy_window(emit.bind(listed[first + step]), source, emit.bind(step * window_elements))
        writer = TileWriter(self.geometry, self.tile, "none", sums, None, (rows, columns))
        with T.serial(0, self.geometry.groups * writer.group_tiles) as k_tile, T.serial(0, mine) as step:
            base = emit.bind(step * window_elements if self.copies else self._start(emit.bind(listed[first + step])))
            with T.serial(0, rows // self.tile.rows) as i, T.serial(0, columns // self.tile.columns) as j:
                row, column = emit.bind(i * self.tile.rows), emit.bind(j * self.tile.columns)
                self._register_tile(source, base, k_tile, step, (row, column), writer)
        return None

    def _start(self, number: Expr) -> Expr:
        """Where the window of a tile begins in x, if there is no padding."""
        image, top, left = self.tiles.place(number)
        row, column = self.tiles.corner(top, left)
        height, width = self.geometry.input_size
        return ((image * height + row) * width + column) * self.channels

    def _register_tile(
        self, source: Expr, base: Expr, k_tile: Expr, step: Expr, place: tuple[Expr, Expr], writer: TileWriter
    ) -> None:
        """Sum one register tile at a ``place`` in the task's tile ``step``, and write it to the sums."""
        (kh, kw), (dh, dw), (sh, sw) = self.geometry.kernel, self.geometry.dilation, self.geometry.stride
        tile, (row, column) = self.tile, place
        registers = start_sums(tile, self.buffers["bias"], k_tile)
        group = 0 if self.geometry.groups == 1 else k_tile // writer.group_tiles
        corner = emit.bind(
            base + row * sh * self.row_elements + column * sw * self.channels + group * self.group_channels
        )
        offsets = [
            py * sh * self.row_elements + px * sw * self.channels
            for py in range(tile.rows)
            for px in range(tile.columns)
        ]
        fused = dw == 1 and self.geometry.groups == 1
        taps, length = (1, kw * self.channels) if fused else (kw, self.group_channels)
        unroll = unrolled(tile, length, (2, 3))
        with T.serial(0, kh) as i, T.serial(0, taps) as j:
            read = emit.bind(corner + i * dh * self.row_elements + j * dw * self.channels)
            filters = emit.bind(k_tile * self.slice + (i * taps + j) * length * tile.channels)
            with T.serial(0, length // unroll) as at:
                for u in range(unroll):
                    c = at * unroll + u
                    taken = (self.buffers["filters"], filters + c * tile.channels)
                    add_products(registers, tile, taken, source, read + c, offsets)
        writer.store(registers, k_tile, step, row, column)


class ListedDepthwise(Listed):
    """Each channel by itself: rows of the plain kernel, of a tile's window."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: int,
        tiling: ListedTiling,
        activation: str,
        buffers: dict[str, Expr],
        unit: VectorUnit,
    ) -> None:
        super().__init__(geometry, batch, tiling, activation, buffers)
        self.copies = any(geometry.padding)
        one = dataclasses.replace(geometry, padding=(0, 0, 0, 0), input_size=self.tiles.window)
        self.rows = DepthwiseRows(one, unit, "none", (buffers["filters"], buffers["bias"]))

    def sum_tiles(self, listed: Expr, first: Expr, mine: Expr, sums: Expr) -> Expr:
        """See ``Listed``."""
        (height, width), (rows, columns) = self.geometry.input_size, self.tiles.window
        window = T.alloc_buffer((rows * columns * self.channels,), FLOAT32.dtype) if self.copies else None
        with T.serial(0, mine) as step:
            number = emit.bind(listed[first + step])
            image, top, left = self.tiles.place(number)
            row, column = self.tiles.corner(top, left)
            target = ImagePlane(sums, self.channels, emit.bind(step * self.pixels * self.channels), self.tiles.size[1])
            start = emit.bind(((image * height + row) * width + column) * self.channels)
            source = ImagePlane(self.x, self.channels, start, width)
            if window is None:
                self.rows.write(source, target, 0, self.tiles.size[0])
            else:
                inside = tirx.all(row >= 0, row + rows <= height, column >= 0, column + columns <= width)
                with T.If(inside):
                    with T.Then():
                        self.rows.write(source, target, 0, self.tiles.size[0])
                    with T.Else():
                        self._copy_window(number, window, 0)
                        self.rows.write(ImagePlane(window, self.channels, 0, columns), target, 0, self.tiles.size[0])
        return None


class ListedWinograd(Listed):
    """Winograd's algorithm. Where a sum is not finite all outputs are computed plainly, as ``write_winograd`` does."""

    def _tasks(self, listed: Expr, count: Expr) -> None:
        blocks = -(-self.tiles.count // self.tiling.block)
        finite = T.alloc_buffer((blocks,), "int32")
        tasks = emit.bind((count + (self.tiling.block - 1)) // self.tiling.block)
        with T.parallel(0, tasks) as task:
            total = self._task(task, listed, count)
            in_range = emit.bind(tirx.abs(total.total()) <= T.float32(emit.LARGEST))
            emit.store(finite, task, tirx.Select(in_range, T.int32(1), T.int32(0)))
        good = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, tasks) as task:
            good.add(finite[task])
        with T.If(good.get() < tasks), T.Then():
            self._compute_plainly()

    def _compute_plainly(self) -> None:
        """Compute all outputs as the convolution is written; all have changed then, and will be computed again."""
        dense = self.tiling.dense
        assert isinstance(dense, WinogradTiling)
        given = [self.buffers[name] for name in ("x", "filters", "bias", "residual") if name in self.buffers]
        write_conv2d(self.geometry, self.batch, dense.direct, self.activation, [*given, self.buffers["y"]])

        def forget(plane: Expr, elements: int) -> None:
            infinite = float("inf")
            emit.sweep(
                elements, self.tile.lanes, lambda i, n: emit.store(plane, i, emit.splat(T.float32(infinite), n), n)
            )

        forget(self.buffers["y_changes"], self.batch * self.kept.planes.pixels)
        forget(self.buffers["moved"], self.tiles.count)

    def sum_tiles(self, listed: Expr, first: Expr, mine: Expr, sums: Expr) -> Expr:
        """See ``Listed``."""
        dense, side = self.tiling.dense, self.tiling.side
        assert isinstance(dense, WinogradTiling)
        given = [self.x, self.buffers["transformed"], self.buffers["bias"], sums]
        writer = WinogradWriter(self.geometry, self.batch, dense, "none", given, self.tiling.block)
        window = T.alloc_buffer(((side + 2) ** 2 * self.channels,), FLOAT32.dtype)
        inputs, products = writer.scratch()
        total = emit.Register(self.tile.lanes, 0.0)
        height, width = self.geometry.input_size
        with T.serial(0, mine) as step:
            number = emit.bind(listed[first + step])
            image, top, left = self.tiles.place(number)
            row, column = self.tiles.corner(top, left)
            target, there = emit.bind(step * self.channels), [True] * (side + 2)
            inside = tirx.all(row >= 0, row + side + 2 <= height, column >= 0, column + side + 2 <= width)
            with T.If(inside):
                with T.Then():
                    corner = emit.bind(((image * height + row) * width + column) * self.channels)
                    writer.transform_tile(self.x, corner, width, there, inputs, target)
                with T.Else():
                    self._copy_window(number, window, 0)
                    writer.transform_tile(window, 0, side + 2, there, inputs, target)
        with T.serial(0, writer.k_tiles) as k_tile:
            with T.serial(0, writer.positions) as position:
                writer.multiply(k_tile, position, mine, inputs, products)
            with T.serial(0, mine) as step:
                written = emit.bind(step * (self.pixels * self.out_channels) + k_tile * self.tile.channels)
                writer.store_tile(k_tile, emit.bind(step * self.tile.channels), written, products, total)
        return total
