"""The second half of a HASTE convolution: merge the filters of each group, then convolve what is left.

One task is one patch and a few tiles of output channels. Channels alone in their group use their filters where they
are; dropped channels' filters are never read; a group's filters are summed once for each tile of output channels.
While some output channels are computed, the same channels' filters for the next ones are prefetched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import is_long, write_output
from haste_compiler.codegen.cpu.kernels.conv2d import STREAMED_BYTES, activate, split_filters, tile_pieces
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, dense_arguments, write_dense
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import RegisterTile, register_tiles
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.group import COUNTS, group_layout, reads_padding, row_floats, window_rows

_MOST_UNROLLED_TAPS = 9
_CYCLES_PER_LOAD = 0.25


@dataclass(frozen=True)
class HasteTiling:
    """The register tile inside a patch, and the tiles of output channels that one task computes."""

    tile: RegisterTile
    channel_tiles: int


def choose_haste_tiling(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int) -> HasteTiling:
    """The register tile with the fewest modelled cycles for a whole patch, and tasks that share evenly."""
    rows, columns = geometry.effective_patch
    channels = geometry.out_channels // geometry.groups
    # LLVM keeps input values that several taps read, so half of the registers at most can hold sums.
    sums = unit.registers // 2 if geometry.kernel[1] > 1 else unit.registers

    def cost(tile: RegisterTile) -> float:
        tiles = math.ceil(rows / tile.rows) * math.ceil(columns / tile.columns) * math.ceil(channels / tile.channels)
        return tiles * (product_cycles(geometry, tile) + _CYCLES_PER_LOAD * loads(geometry, tile))

    candidates = register_tiles(rows, columns, channels, unit)
    tile = min((tile for tile in candidates if tile.pixels * tile.vectors <= sums), key=cost)
    patches = batch * geometry.patch_grid[0] * geometry.patch_grid[1] * geometry.groups
    k_tiles = math.ceil(channels / tile.channels)
    filter_bytes = geometry.in_channels * channels * geometry.kernel[0] * geometry.kernel[1] * 4
    if filter_bytes < unit.l2_bytes // 2 and patches >= 4 * threads:
        return HasteTiling(tile, k_tiles)
    return HasteTiling(tile, 1)


def product_cycles(geometry: ConvGeometry, tile: RegisterTile) -> float:
    """Cycles of one channel's products in a register tile: two vectors a cycle.

    With four cycles latency, fewer than eight sums leave the units idle.
    """
    return geometry.taps * max(tile.pixels * tile.vectors / 2, 4.0)


def loads(geometry: ConvGeometry, tile: RegisterTile) -> int:
    """Loads of one channel in a register tile: an input value for all the taps that it meets, a vector of filters for
    all the pixels.
    """
    (kh, kw), (dh, dw), (sh, sw) = geometry.kernel, geometry.dilation, geometry.stride
    values = ((tile.rows - 1) * sh + (kh - 1) * dh + 1) * ((tile.columns - 1) * sw + (kw - 1) * dw + 1)
    return values + geometry.taps * tile.vectors


def pack_haste_filters(weight: NDArray[np.float32], groups: int, tile: RegisterTile) -> NDArray[np.float32]:
    """(K, C/groups, kh, kw) to [groups · K tiles][C/groups][kh · kw][tile channels], zero-padded, flat."""
    return np.ascontiguousarray(split_filters(weight, groups, tile).transpose(0, 2, 3, 4, 1)).reshape(-1)


def pack_tap_sums(weight: NDArray[np.float32], groups: int, tile: RegisterTile) -> NDArray[np.float32]:
    """Sums of each filter's taps, which carried means multiply: [groups · K tiles][C/groups][tile channels], flat."""
    total = weight.astype(np.float64).sum(axis=(2, 3), keepdims=True).astype(np.float32)
    return pack_haste_filters(total, groups, tile)


def haste_convolve_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    lanes: int,
    tiling: HasteTiling,
    *,
    skip: str,
    residual: bool = False,
    activation: str = "none",
    dense: DenseTiling | None = None,
) -> tirx.PrimFunc:
    """The kernel (windows, order, coeff, starts, rows, counts, filters, tap sums, bias[, residual NHWC], y NHWC).

    ``lanes`` is the target's vector width, which pads the windows; the register tile's may be narrower. ``dense``: the
    tiling of the plain convolution that is computed instead where the gate said so; the kernel then begins with
    (chosen, x NHWC, and that tiling's filters and bias).
    """
    out_h, out_w = geometry.output_size
    tile = tiling.tile
    channels, taps = geometry.in_channels // geometry.groups, geometry.kernel[0] * geometry.kernel[1]
    k_tiles = geometry.groups * math.ceil(geometry.out_channels // geometry.groups / tile.channels)
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        *group_layout(geometry, batch, lanes).tensors()[:-1],
        ("filters", (k_tiles * channels * taps * tile.channels,), "float32"),
        ("tap_sums", (k_tiles * channels * tile.channels,), "float32"),
        ("bias", (k_tiles * tile.channels,), "float32"),
    ]
    if residual:
        arguments.append(("residual", (batch, out_h, out_w, geometry.out_channels), "float32"))
    arguments.append(("y", (batch, out_h, out_w, geometry.out_channels), "float32"))
    if dense is None:
        return emit.kernel(
            name, arguments, lambda *b: _Convolve(geometry, batch, lanes, tiling, skip, activation, list(b)).write()
        )
    x, *weights, _ = dense_arguments(geometry, batch, dense)
    plain = [x, *((f"dense_{label}", shape, dtype) for label, shape, dtype in weights)]

    def body(chosen: Expr, *buffers: Expr) -> None:
        inputs, merged = buffers[: len(plain)], list(buffers[len(plain) :])
        shared = merged[-2:] if residual else merged[-1:]
        with T.If(chosen[0] == 1):
            with T.Then():
                _Convolve(geometry, batch, lanes, tiling, skip, activation, merged).write()
            with T.Else():
                write_dense(geometry, batch, dense, activation, [*inputs, *shared])

    return emit.kernel(name, [("chosen", (1,), "int32"), *plain, *arguments], body)


class _Convolve:
    """Emits the kernel; the methods go from the tasks inwards."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        lanes: int,
        tiling: HasteTiling,
        skip: str,
        activation: str,
        buffers: list[Expr],
    ) -> None:
        self.geometry, self.tiling, self.images = geometry, tiling, emit.bind(images_of(batch))
        self.skip, self.activation = skip, activation
        self.tile = tiling.tile
        self.windows, self.order, self.coeff, self.starts, self.rows_of, self.counts = buffers[:6]
        self.filters, self.tap_sums, self.bias, self.y = buffers[6], buffers[7], buffers[8], buffers[-1]
        self.residual = buffers[9] if len(buffers) == 11 else None
        self.channels = geometry.in_channels // geometry.groups
        self.group_out = geometry.out_channels // geometry.groups
        self.taps = geometry.kernel[0] * geometry.kernel[1]
        self.row = row_floats(geometry, lanes)
        self.pixels = geometry.window_pixels
        self.k_tiles = math.ceil(self.group_out / self.tile.channels)
        self.filter_floats = self.taps * self.tile.channels
        rows, columns = geometry.effective_patch
        self.tiles_down, self.tiles_across = -(-rows // self.tile.rows), -(-columns // self.tile.columns)
        self.streamed = geometry.groups * self.k_tiles * self.channels * self.filter_floats * 4 >= STREAMED_BYTES
        # Patches that read the same filters before any reads the next ones.
        together = hint_of(batch) * geometry.patch_grid[0] * geometry.patch_grid[1]
        self.sharing = together if tiling.channel_tiles == 1 else 1

    def write(self) -> None:
        """All tasks, in parallel; those that read the same filters follow each other."""
        grid_h, grid_w = self.geometry.patch_grid
        groups = self.geometry.groups
        patches = emit.bind(self.images * grid_h * grid_w)
        chunks = math.ceil(self.k_tiles / self.tiling.channel_tiles)
        with T.parallel(0, groups * chunks * patches) as task:
            patch = emit.bind(task % patches)
            chunk = emit.bind(task // patches % chunks)
            group = emit.bind(task // (patches * chunks))
            image, place = emit.bind(patch // (grid_h * grid_w)), emit.bind(patch % (grid_h * grid_w))
            self.turn = patch
            self._patch(
                group, image, emit.bind(place // grid_w), emit.bind(place % grid_w), emit.bind(patch * groups + group)
            )
            self.merged = T.alloc_buffer(((self.channels // 2 + 2) * self.filter_floats,), "float32")
            self.start = [emit.Register(self.tile.lanes) for _ in range(self.tile.vectors)]
            self.convolved = emit.Register(1, T.int32(0), "int32")
            first = emit.bind(chunk * self.tiling.channel_tiles)
            with T.serial(0, emit.minimum(self.tiling.channel_tiles, self.k_tiles - first)) as step:
                k_tile = emit.bind(first + step)
                packed = emit.bind(group * self.k_tiles + k_tile)
                self._start_sums(packed)
                self._merge_filters(packed)
                self._convolve(group, k_tile, packed, image)

    def _patch(self, group: Expr, image: Expr, patch_row: Expr, patch_column: Expr, entry: Expr) -> None:
        """Where the patch's window, lists and outputs are."""
        self.patch_h, self.patch_w = self.geometry.effective_patch
        out_h, out_w = self.geometry.output_size
        self.out_row, self.out_column = emit.bind(patch_row * self.patch_h), emit.bind(patch_column * self.patch_w)
        self.rows = emit.bind(T.min(self.patch_h, out_h - self.out_row))
        self.columns = emit.bind(T.min(self.patch_w, out_w - self.out_column))
        self.window = emit.bind(entry * window_rows(self.channels) * self.row)
        self.list = emit.bind(entry * self.channels)
        self.group_list = emit.bind(entry * (self.channels // 2 + 1))
        counts = [emit.bind(self.counts[entry * len(COUNTS) + i]) for i in range(len(COUNTS))]
        self.singles, self.groups, self.members, _, self.flats, _ = counts
        top, _, left, _ = self.geometry.padding
        y, x = self.out_row * self.geometry.stride[0] - top, self.out_column * self.geometry.stride[1] - left
        self.on_border = emit.bind(reads_padding(self.geometry, y, x, self.rows, self.columns))

    def _filter(self, packed: Expr, channel: Expr) -> Expr:
        return (packed * self.channels + channel) * self.filter_floats

    def _start_sums(self, packed: Expr) -> None:
        """Bias, and the carried means of flat channels where the window has no border."""
        tile = self.tile
        for v, register in enumerate(self.start):
            register.set(emit.load(self.bias, packed * tile.channels + v * tile.lanes, tile.lanes))
        if self.skip != "flat":
            return
        with T.If(tirx.all(self.flats > 0, tirx.Not(self.on_border))), T.Then(), T.serial(0, self.flats) as i:
            at = emit.bind(self.list + self.singles + self.members + i)
            mean = T.bind(emit.splat(self.coeff[at], tile.lanes))
            taps = emit.bind((packed * self.channels + self.order[at]) * tile.channels)
            for v, register in enumerate(self.start):
                register.add(mean * emit.load(self.tap_sums, taps + v * tile.lanes, tile.lanes))

    def _merge_filters(self, packed: Expr) -> None:
        """F_g = sum of a_c F_c for every group; near a border one more, sum of d_c F_c, convolved with the mask."""
        with T.serial(0, self.groups) as g:
            start = emit.bind(self.starts[self.group_list + g])
            count = emit.bind(self.starts[self.group_list + g + 1] - start)
            self._sum_filters(packed, g, emit.bind(self.list + start), count)
        self.convolved.set(self.groups)
        if self.skip == "flat":
            with T.If(tirx.all(self.flats > 0, self.on_border)), T.Then():
                self._sum_filters(packed, self.groups, emit.bind(self.list + self.singles + self.members), self.flats)
                self.convolved.set(self.groups + 1)

    def _sum_filters(self, packed: Expr, target: Expr, first: Expr, count: Expr) -> None:
        lanes = self.tile.lanes
        vectors = self.filter_floats // lanes
        at_once = min(vectors, 2 * _MOST_UNROLLED_TAPS)
        while vectors % at_once:
            at_once -= 1
        with T.serial(0, vectors // at_once) as part:
            sums = [emit.Register(lanes) for _ in range(at_once)]
            for register in sums:
                register.set(emit.splat(0.0, lanes))
            with T.serial(0, count) as i:
                self._prefetch(packed, self.order[first + i], self.turn, self.sharing)
                factor = T.bind(emit.splat(self.coeff[first + i], lanes))
                source = emit.bind(self._filter(packed, self.order[first + i]) + part * at_once * lanes)
                for v, register in enumerate(sums):
                    register.add(factor * emit.load(self.filters, source + v * lanes, lanes))
            start = emit.bind(target * self.filter_floats + part * at_once * lanes)
            for v, register in enumerate(sums):
                emit.store(self.merged, start + v * lanes, register.get(), lanes)

    def _convolve(self, group: Expr, k_tile: Expr, packed: Expr, image: Expr) -> None:
        """All register tiles of the patch."""
        tile = self.tile
        filled_rows = emit.bind(T.min(self.tiles_down, (self.rows + tile.rows - 1) // tile.rows))
        filled_columns = emit.bind(T.min(self.tiles_across, (self.columns + tile.columns - 1) // tile.columns))
        tiles = self.tiles_down * self.tiles_across
        with T.serial(0, filled_rows) as i, T.serial(0, filled_columns) as j:
            row = emit.bind(emit.minimum(i * tile.rows, self.patch_h - tile.rows))
            column = emit.bind(emit.minimum(j * tile.columns, self.patch_w - tile.columns))
            sums = [[emit.Register(tile.lanes) for _ in range(tile.vectors)] for _ in range(tile.pixels)]
            for pixel in sums:
                for v, register in enumerate(pixel):
                    register.set(self.start[v].get())
            (sh, sw), qw = self.geometry.stride, self.geometry.window[1]
            corner = emit.bind(self.window + row * sh * qw + column * sw)
            turn = emit.bind(self.turn * tiles + i * self.tiles_across + j)
            with T.serial(0, self.singles) as s:
                channel = emit.bind(self.order[self.list + self.members + s])
                self._prefetch(packed, channel, turn, self.sharing * tiles)
                self._channel(sums, corner + channel * self.row, self.filters, self._filter(packed, channel))
            with T.serial(0, self.convolved.get()) as g:
                merged_row = emit.bind(self.rows_of[self.group_list + g])
                self._channel(sums, corner + merged_row * self.row, self.merged, g * self.filter_floats)
            self._store(sums, group, k_tile, image, row, column)

    def _prefetch(self, packed: Expr, channel: Expr, turn: Expr, turns: int) -> None:
        """A part of a channel's filters for the next output channels; ``turns`` calls ask for all of them."""
        if not self.streamed:
            return
        lines = -(-self.filter_floats // emit.LINE_FLOATS)
        each = -(-lines // turns)
        last = self.geometry.groups * self.k_tiles - 1
        start = emit.bind(
            self._filter(T.min(packed + 1, last), channel) + turn % -(-lines // each) * (each * emit.LINE_FLOATS)
        )
        emit.prefetch_floats(self.filters, start, each * emit.LINE_FLOATS)

    def _channel(self, sums: list[list[emit.Register]], window: Expr, filters: Expr, start: Expr) -> None:
        """Add one channel's products to the register tile."""
        window, start = emit.bind(window), emit.bind(start)
        (kh, kw), (dh, dw), (sh, sw) = self.geometry.kernel, self.geometry.dilation, self.geometry.stride
        tile, qw = self.tile, self.geometry.window[1]

        def tap(i: Expr, j: int) -> None:
            at = start + (i * kw + j) * tile.channels
            w = [T.bind(emit.load(filters, at + v * tile.lanes, tile.lanes)) for v in range(tile.vectors)]
            for p, pixel in enumerate(sums):
                py, px = divmod(p, tile.columns)
                offset = i * dh * qw + (py * sh * qw + j * dw + px * sw)
                value = T.bind(emit.splat(self.windows[window + offset], tile.lanes))
                for v, register in enumerate(pixel):
                    register.add(value * w[v])

        if self.taps <= _MOST_UNROLLED_TAPS:
            for i in range(kh):
                for j in range(kw):
                    tap(i, j)
        else:
            with T.serial(0, kh) as i:
                for j in range(kw):
                    tap(i, j)

    def _store(
        self, sums: list[list[emit.Register]], group: Expr, k_tile: Expr, image: Expr, row: Expr, column: Expr
    ) -> None:
        """Residual, activation, store; pixels past the patch's own outputs and padded channels are not written."""
        tile, out_channels = self.tile, self.geometry.out_channels
        out_h, out_w = self.geometry.output_size
        channel = emit.bind(group * self.group_out + k_tile * tile.channels)
        y, x = self.out_row + row, self.out_column + column
        start = emit.bind(((image * out_h + y) * out_w + x) * out_channels + channel)
        rest = self.group_out - (self.k_tiles - 1) * tile.channels
        whole = out_h % self.patch_h == 0 and out_w % self.patch_w == 0

        def pixels(valid: int) -> None:
            pieces = tile_pieces(tile, valid)
            for p, pixel in enumerate(sums):
                py, px = divmod(p, tile.columns)
                at = start + (py * out_w + px) * out_channels
                if whole:
                    self._store_pixel(pixel, at, pieces)
                else:
                    with T.If(tirx.all(row + py < self.rows, column + px < self.columns)), T.Then():
                        self._store_pixel(pixel, at, pieces)
            if is_long(self.activation):
                rows, columns = (
                    emit.minimum(tile.rows, self.rows - row),
                    emit.minimum(tile.columns, self.columns - column),
                )
                with T.serial(0, rows) as py, T.serial(0, columns) as px:
                    at = emit.bind(start + (py * out_w + px) * out_channels)
                    activate(self.y, at, pieces, tile, self.activation)

        if rest == tile.channels or self.k_tiles == 1:
            pixels(rest if self.k_tiles == 1 else tile.channels)
        else:
            with T.If(k_tile == self.k_tiles - 1):
                with T.Then():
                    pixels(rest)
                with T.Else():
                    pixels(tile.channels)

    def _store_pixel(self, pixel: list[emit.Register], at: Expr, pieces: list[tuple[int, int, int]]) -> None:
        for v, offset, width in pieces:
            index = at + v * self.tile.lanes + offset
            value = emit.load(pixel[v].buffer, offset, width)
            write_output(self.y, index, value, width, self.residual, self.activation)
