"""Dense convolution: activations NHWC, filters packed for the register tile, bias, residual and activation fused.

One task computes a block of output rows for a few tiles of output channels. Where the image is padded, the task first
copies the rows it reads into a padded buffer (under 1 % of its time), so the inner loop has no border. Tiles at the
right end are moved back to fit, which computes a few pixels twice but needs no second kernel.

A layer's filters are in no near cache when a network comes to it. While the register tiles of some output channels are
computed, the filters of the next ones are asked for, a few lines at a time. Where there is one register tile only, the
filters are read as fast as they come, and asked for a little ahead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation, is_long, write_output
from haste_compiler.codegen.cpu.kernels.window import copy_rows
from haste_compiler.codegen.cpu.tiling import ConvTiling, ConvWork, RegisterTile
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of, least_of
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

STREAMED_BYTES = 1 << 16
"""Filters of at least so many bytes are prefetched."""

AHEAD_BYTES = 1 << 13
"""How far ahead filters are asked for that are read once."""

_MOST_UNROLLED_SUMS = 16
"""Vectors of sums beside which there is room in the registers for the filters of several steps."""


def conv_work(geometry: ConvGeometry, batch: int, element: Element = FLOAT32) -> ConvWork:
    """What tiling needs to know of a convolution of images of such elements."""
    (kh, kw), (sh, _), (dh, _) = geometry.kernel, geometry.stride, geometry.dilation
    out_h, out_w = geometry.output_size
    flat = is_flat(geometry)
    channels = geometry.in_channels // geometry.groups
    # Pixels that a 1×1 kernel steps over are not read.
    read_once = (kh, kw) == (1, 1) and not any(geometry.padding)
    width = out_w if read_once else geometry.input_size[1] + geometry.padding[2] + geometry.padding[3]
    return ConvWork(
        images=1 if flat else batch,
        rows=1 if flat else out_h,
        columns=batch * out_h * out_w if flat else out_w,
        channels=geometry.out_channels // geometry.groups,
        groups=geometry.groups,
        depth=kh * kw * channels,
        window_rows=(1, 0) if read_once else (sh, (kh - 1) * dh + 1 - sh),
        window_row_elements=(1 if flat else width) * geometry.in_channels,
        copies=any(geometry.padding),
        flat=flat,
        element=element,
    )


def is_flat(geometry: ConvGeometry) -> bool:
    """A 1×1 convolution that reads every pixel once: rows of pixels times a matrix, whatever the image's shape."""
    return (
        geometry.kernel == (1, 1) and geometry.stride == (1, 1) and not any(geometry.padding) and geometry.groups == 1
    )


def split_filters(values: NDArray[np.float32], groups: int, tile: RegisterTile) -> NDArray[np.float32]:
    """(K, ...) to (groups · K tiles, tile channels, ...), zero-padded."""
    per_group, rest = len(values) // groups, values.shape[1:]
    tiles = math.ceil(per_group / tile.channels)
    padded = np.zeros((groups, tiles * tile.channels, *rest), np.float32)
    padded[:, :per_group] = values.reshape(groups, per_group, *rest)
    return padded.reshape(groups * tiles, tile.channels, *rest)


def pack_filters(weight: NDArray[np.float32], groups: int, tile: RegisterTile) -> NDArray[np.float32]:
    """(K, C/groups, kh, kw) to [groups · K tiles][kh][kw][C/groups][tile channels], zero-padded, flat."""
    return np.ascontiguousarray(split_filters(weight, groups, tile).transpose(0, 3, 4, 2, 1)).reshape(-1)


def pack_bias(
    bias: NDArray[np.float32] | None, out_channels: int, groups: int, tile: RegisterTile
) -> NDArray[np.float32]:
    """(K,) or None to [groups · K tiles][tile channels], zero-padded, flat."""
    values = np.zeros(out_channels, np.float32) if bias is None else bias
    return split_filters(values, groups, tile).reshape(-1)


def conv2d_arguments(
    geometry: ConvGeometry, batch: Batch, tile: RegisterTile, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes; sums start with the bias."""
    element = tile.element
    out_shape = (batch, *geometry.output_size, geometry.out_channels)
    k_tiles = geometry.groups * math.ceil(geometry.out_channels // geometry.groups / tile.channels)
    depth = geometry.in_channels // geometry.groups * geometry.taps
    return [
        ("x", (batch, *geometry.input_size, geometry.in_channels), element.dtype),
        ("filters", (k_tiles * depth * tile.channels,), element.dtype),
        ("bias", (k_tiles * tile.channels,), element.accumulator),
        *([("residual", out_shape, element.dtype)] if residual else []),
        ("y", out_shape, element.dtype),
    ]


def conv2d_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: ConvTiling,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed filters, packed bias[, residual NHWC], y NHWC)."""

    def body(*buffers: Expr) -> None:
        write_conv2d(geometry, batch, tiling, activation, list(buffers))

    return emit.kernel(name, conv2d_arguments(geometry, batch, tiling.tile, residual=residual), body)


def write_conv2d(
    geometry: ConvGeometry, batch: Batch, tiling: ConvTiling, activation: str, buffers: list[Expr]
) -> None:
    """Emit the convolution of ``buffers``, those of ``conv2d_arguments``, into the kernel that is being built."""

    def write(tiling: ConvTiling) -> None:
        _Conv2d(geometry, batch, tiling, activation, buffers).write()

    if is_flat(geometry):
        with_tiles_that_fit(write, tiling, batch, math.prod(geometry.output_size))
    else:
        write(tiling)


def with_tiles_that_fit(write: Callable[[ConvTiling], None], tiling: ConvTiling, batch: Batch, pixels: int) -> None:
    """Write a kernel whose tiles take pixels of all images in a row, of ``pixels`` an image.

    Tiles are moved back to fit, which takes at least as many pixels as a tile has: fewer get narrower ones.
    """
    columns, fewest = tiling.tile.columns, least_of(batch) * pixels
    if columns <= fewest:
        write(tiling)
        return
    with T.If(images_of(batch) * pixels >= columns):
        with T.Then():
            write(tiling)
        with T.Else():
            narrower = fewest if fewest >= columns // 4 else columns // 2
            tile = dataclasses.replace(tiling.tile, columns=narrower)
            with_tiles_that_fit(write, dataclasses.replace(tiling, tile=tile), batch, pixels)


class _Conv2d:
    """Emits one kernel; the methods go from the tasks inwards to the register tile."""

    def __init__(
        self, geometry: ConvGeometry, batch: Batch, tiling: ConvTiling, activation: str, buffers: list[Expr]
    ) -> None:
        self.geometry, self.tiling, self.tile, self.element = geometry, tiling, tiling.tile, tiling.tile.element
        self.images = emit.bind(images_of(batch))
        self.x, self.filters, self.bias = buffers[:3]
        self.flat = is_flat(geometry)
        self.height, self.width = geometry.input_size
        self.channels = geometry.in_channels
        self.group_channels = geometry.in_channels // geometry.groups
        out_h, out_w = geometry.output_size
        self.out_h: int = 1 if self.flat else out_h
        self.out_w: Expr = emit.bind(self.images * out_h * out_w) if self.flat else out_w
        residual = buffers[3] if len(buffers) == 5 else None
        self.writer = TileWriter(geometry, self.tile, activation, buffers[-1], residual, (self.out_h, self.out_w))
        self.tiles_across = emit.ceil_div(self.out_w, self.tile.columns)
        self.group_tiles = self.writer.group_tiles
        self.k_tiles = geometry.groups * self.group_tiles
        self.slice = self.group_channels * geometry.taps * self.tile.channels
        self.streamed = self.k_tiles * self.slice * self.element.bytes >= STREAMED_BYTES
        # Register tiles that a task computes for the same output channels, and tasks that read the same filters.
        self.tiles = tiling.block if self.flat else tiling.block // self.tile.rows * self.tiles_across
        work = conv_work(geometry, hint_of(batch), self.element)
        units = math.ceil(work.columns / self.tile.columns) if self.flat else work.rows
        self.passes = math.ceil(units / tiling.block) * work.images

    def write(self) -> None:
        """All tasks, in parallel."""
        units = self.tiles_across if self.flat else self.out_h
        blocks = emit.ceil_div(units, self.tiling.block)
        images = 1 if self.flat else self.images
        chunks = math.ceil(self.k_tiles / self.tiling.channel_tiles)
        with T.parallel(0, images * blocks * chunks) as task:
            if self.tiling.channels_first:
                chunk, place = emit.bind(task // (images * blocks)), emit.bind(task % (images * blocks))
            else:
                place, chunk = emit.bind(task // chunks), emit.bind(task % chunks)
            image, first = emit.bind(place // blocks), emit.bind(place % blocks * self.tiling.block)
            count = emit.bind(emit.minimum(self.tiling.block, units - first))
            window = self._window(image, first)
            k_first = emit.bind(chunk * self.tiling.channel_tiles)
            with T.serial(0, emit.minimum(self.tiling.channel_tiles, self.k_tiles - k_first)) as k_step:
                k_tile = emit.bind(k_first + k_step)
                if self.flat:
                    with T.serial(0, count) as step:
                        column = emit.bind(
                            emit.minimum((first + step) * self.tile.columns, self.out_w - self.tile.columns)
                        )
                        self._register_tile(window, k_tile, image, 0, 0, column, step)
                else:
                    with T.serial(0, count // self.tile.rows) as row_step:
                        row = emit.bind(row_step * self.tile.rows)
                        with T.serial(0, self.tiles_across) as column_step:
                            column = emit.bind(
                                emit.minimum(column_step * self.tile.columns, self.out_w - self.tile.columns)
                            )
                            index = emit.bind(row_step * self.tiles_across + column_step)
                            self._register_tile(window, k_tile, image, first, row, column, index)

    def _window(self, image: Expr, first: Expr) -> tuple[Expr, Expr, int]:
        """The buffer that the task reads, where its first output row starts, and the elements between rows."""
        if self.flat:
            return self.x, 0, 0
        _, _, left, right = self.geometry.padding
        stride = self.geometry.stride[0]
        rows = (self.tiling.block - 1) * stride + (self.geometry.kernel[0] - 1) * self.geometry.dilation[0] + 1
        window, start = copy_rows(self.x, self.geometry, image, first * stride, rows, self.tile.lanes)
        return window, start, (self.width + left + right) * self.channels

    def _register_tile(
        self,
        window: tuple[Expr, Expr, int],
        k_tile: Expr,
        image: Expr,
        first: Expr,
        row: Expr,
        column: Expr,
        index: Expr,
    ) -> None:
        """Sum one register tile and write it.

        ``row`` counts from ``first``, the task's first output row; ``index`` counts the task's register tiles; for
        ``window`` see ``_window``.
        """
        source, base, row_elements = window
        (kh, kw), (dh, dw), (sh, sw) = self.geometry.kernel, self.geometry.dilation, self.geometry.stride
        tile = self.tile
        sums = start_sums(tile, self.bias, k_tile)
        group = 0 if self.geometry.groups == 1 else k_tile // self.group_tiles
        corner = emit.bind(base + row * sh * row_elements + column * sw * self.channels + group * self.group_channels)
        offsets = [
            py * sh * row_elements + px * sw * self.channels for py in range(tile.rows) for px in range(tile.columns)
        ]
        fused = dw == 1 and self.geometry.groups == 1
        taps, length = (1, kw * self.channels) if fused else (kw, self.group_channels)
        unroll = unrolled(tile, length, (2, 3))
        steps = kh * taps * length // unroll
        if self.streamed:
            following, stride = self._following_filters(k_tile, index, steps, unroll)
        with T.serial(0, kh) as i, T.serial(0, taps) as j, self._if_read(first + row, column, i, j):
            read = emit.bind(corner + i * dh * row_elements + j * dw * self.channels)
            filters = emit.bind(((k_tile * kh + i) * taps + j) * length * tile.channels)
            with T.serial(0, length // unroll) as step:
                if self.streamed:
                    done = (i * taps + j) * (length // unroll) + step
                    emit.prefetch_elements(self.filters, following + done * stride, stride, self.element)
                for u in range(unroll):
                    c = step * unroll + u
                    add_products(sums, tile, (self.filters, filters + c * tile.channels), source, read + c, offsets)
        self.writer.store(sums, k_tile, image, first + row, column)

    @contextmanager
    def _if_read(self, row: Expr, column: Expr, i: Expr, j: Expr) -> Iterator[None]:
        """Do what follows for a tap of the filters that reads any of the image for a register tile at a place.

        The taps of a widely dilated filter read nothing but padding for many.
        """
        geometry, tile = self.geometry, self.tile
        (top, _, left, _), (kh, kw) = geometry.padding, geometry.kernel
        read = []
        for place, count, tap, axis, before, taps, size in (
            (row, tile.rows, i, 0, top, kh, self.height),
            (column, tile.columns, j, 1, left, kw, self.width),
        ):
            stride, dilation = geometry.stride[axis], geometry.dilation[axis]
            if dilation > 1 and taps > 1 and before >= dilation:
                at = emit.bind(place * stride + tap * dilation - before)
                read += [at + (count - 1) * stride >= 0, at < size]
        if not read:
            yield
            return
        with T.If(tirx.all(*read)), T.Then():
            yield

    def _following_filters(self, k_tile: Expr, index: Expr, steps: int, unroll: int) -> tuple[Expr, int]:
        """Where the filters begin that a register tile asks for while it sums, and how many elements at each step."""
        if self.tiles == self.passes == 1:
            return emit.bind(k_tile * self.slice + AHEAD_BYTES // self.element.bytes), unroll * self.tile.channels
        # The task's register tiles share the next filters among them.
        stride = -(-self.slice // (self.tiles * steps))
        return emit.bind(T.min(k_tile + 1, self.k_tiles - 1) * self.slice + index * (steps * stride)), stride


def start_sums(tile: RegisterTile, bias: Expr, k_tile: Expr) -> list[list[emit.Register]]:
    """The sums of a register tile, a list for each pixel, set to the bias of its channels."""
    lanes, dtype = tile.lanes, tile.element.accumulator
    sums = [[emit.Register(lanes, dtype=dtype) for _ in range(tile.vectors)] for _ in range(tile.pixels)]
    for v in range(tile.vectors):
        start = emit.bind(emit.load(bias, k_tile * tile.channels + v * lanes, lanes))
        for pixel in sums:
            pixel[v].set(start)
    return sums


def add_products(
    sums: list[list[emit.Register]],
    tile: RegisterTile,
    filters: tuple[Expr, Expr],
    source: Expr,
    read: Expr,
    offsets: Sequence[Expr],
) -> None:
    """Add one input value of each pixel times its filters; ``filters`` are a buffer and where they begin in it.

    The values are ``source[read + offset]``, with an offset for each pixel.
    """
    buffer, start = filters
    w = [T.bind(emit.load(buffer, start + v * tile.lanes, tile.lanes)) for v in range(tile.vectors)]
    for pixel, offset in zip(sums, offsets, strict=True):
        value = T.bind(emit.splat(source[read + offset], tile.lanes))
        for v in range(tile.vectors):
            pixel[v].add(value * w[v])


class TileWriter:
    """Emits what follows a register tile's sums: residual, activation, store.

    Args:
        geometry: the convolution.
        tile: its register tile.
        activation: see ``apply_activation``.
        y: what is written, NHWC.
        residual: what is added before, of the same shape.
        out_size: height and width that rows and columns count in; None: the geometry's.
        step: rows and columns of the output from one pixel of the tile to the next.
        overhangs: pixels of a tile may lie outside the output; they are left out.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        tile: RegisterTile,
        activation: str,
        y: Expr,
        residual: Expr | None,
        out_size: tuple[int, Expr] | None = None,
        step: tuple[int, int] = (1, 1),
        *,
        overhangs: bool = False,
    ) -> None:
        self.geometry, self.tile, self.activation, self.y, self.residual = geometry, tile, activation, y, residual
        size: tuple[int, Expr] = out_size or geometry.output_size
        self.out_h, self.out_w = size
        self.step, self.overhangs = step, overhangs
        self.out_channels, self.group_out = geometry.out_channels, geometry.out_channels // geometry.groups
        self.group_tiles = math.ceil(self.group_out / tile.channels)

    def store(self, sums: list[list[emit.Register]], k_tile: Expr, image: Expr, row: Expr, column: Expr) -> None:
        """Write one register tile; the last one of a conv group may be narrower."""
        tile = self.tile
        rest = self.group_out - (self.group_tiles - 1) * tile.channels
        in_group = k_tile % self.group_tiles if self.geometry.groups > 1 else k_tile
        group = k_tile // self.group_tiles if self.geometry.groups > 1 else 0
        channel = emit.bind(group * self.group_out + in_group * tile.channels)
        start = emit.bind(((image * self.out_h + row) * self.out_w + column) * self.out_channels + channel)
        place = _Place(start, row, column)
        write_valid(
            in_group, self.group_tiles, (tile.channels, rest), lambda valid: self._store_channels(sums, place, valid)
        )

    def _store_channels(self, sums: list[list[emit.Register]], place: _Place, valid: int) -> None:
        tile, pieces = self.tile, tile_pieces(self.tile, valid)
        for p, pixel in enumerate(sums):
            py, px = divmod(p, tile.columns)
            with self._if_inside(place, py, px):
                at = self._index(place, py, px)
                for v, offset, width in pieces:
                    index = at + v * tile.lanes + offset
                    value = emit.load(pixel[v].buffer, offset, width)
                    write_output(self.y, index, value, width, self.residual, self.activation)
        if is_long(self.activation):
            with T.serial(0, tile.rows) as py, T.serial(0, tile.columns) as px, self._if_inside(place, py, px):
                activate(self.y, emit.bind(self._index(place, py, px)), pieces, tile, self.activation)

    def _index(self, place: _Place, py: Expr, px: Expr) -> Expr:
        """Where the tile's channels of one of its pixels begin in y."""
        return place.start + (py * self.step[0] * self.out_w + px * self.step[1]) * self.out_channels

    @contextmanager
    def _if_inside(self, place: _Place, py: Expr, px: Expr) -> Iterator[None]:
        """Do what follows only for a pixel that lies in the output."""
        if not self.overhangs:
            yield
            return
        below, right = place.row + py * self.step[0], place.column + px * self.step[1]
        with T.If(tirx.all(below < self.out_h, right < self.out_w)), T.Then():
            yield


@dataclass(frozen=True)
class _Place:
    """Where a register tile is written: its first element in y, row and column of its first pixel."""

    start: Expr
    row: Expr
    column: Expr


def write_valid(k_tile: Expr, tiles: int, channels: tuple[int, int], write: Callable[[int], None]) -> None:
    """Emit what writes one of several tiles of output channels, of which the last may hold fewer.

    Args:
        k_tile: the tile.
        tiles: how many there are.
        channels: of a tile, and of the last one.
        write: emits it for a number of channels.
    """
    whole, rest = channels
    if tiles == 1 or rest == whole:
        write(rest)
        return
    with T.If(k_tile == tiles - 1):
        with T.Then():
            write(rest)
        with T.Else():
            write(whole)


def unrolled(tile: RegisterTile, steps: int, factors: tuple[int, ...]) -> int:
    """The first factor that divides the steps. Of a tile that fills the registers nothing is: LLVM would read filters
    early, and keep sums in memory."""
    if tile.pixels * tile.vectors > _MOST_UNROLLED_SUMS:
        return 1
    return next((factor for factor in factors if steps % factor == 0), 1)


def tile_pieces(tile: RegisterTile, valid: int) -> list[tuple[int, int, int]]:
    """The first ``valid`` channels of a tile as (vector, first lane, lanes)."""
    return [
        (v, offset, width)
        for v in range(tile.vectors)
        for offset, width in emit.chunks(min(tile.lanes, valid - v * tile.lanes), tile.lanes)
    ]


def activate(y: Expr, at: Expr, pieces: list[tuple[int, int, int]], tile: RegisterTile, activation: str) -> None:
    """Apply an activation to a pixel's channels that were just written."""
    for v, offset, width in pieces:
        index = at + v * tile.lanes + offset
        emit.store(y, index, apply_activation(emit.load(y, index, width), activation, width), width)
