"""The second half of a HASTE convolution on a card: merge the filters of each group, then convolve what is left.

The product is the dense convolution's with a shorter depth: rows are read from the merged window, and of the filters
those of channels alone where they lie, and the merged ones from where ``merge_filters_kernel`` put them. Dropped
channels' filters are never read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.cuda.kernels import intrinsics
from haste_compiler.codegen.cuda.kernels.conv2d import Epilogue, write_values
from haste_compiler.codegen.cuda.kernels.gemm import BlockProduct, round_filters
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import DEPTH, GemmTile, choose_gemm
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS
from haste_compiler.methods.haste.cuda.layout import GroupLayout

_THREADS = 128
_SHARES = 8
"""Blocks that share the groups of one patch."""


def choose_haste_tile(geometry: ConvGeometry, batch: int, processors: int, precision: Precision) -> GemmTile:
    """The tile of a patch's product, as if half of the channels were left."""
    height, width = geometry.effective_patch
    grid_h, grid_w = geometry.patch_grid
    depth = max(1, geometry.taps * geometry.in_channels // geometry.groups // 2)
    filters = geometry.out_channels // geometry.groups
    count = batch * grid_h * grid_w * geometry.groups
    # Every patch's sums end in one kernel: the depth isn't cut.
    return choose_gemm(height * width, filters, depth, count, processors, precision, most_splits=1)[1].tile


def padded_columns(geometry: ConvGeometry, tile: GemmTile) -> int:
    """Filters of a conv group, padded to whole tiles."""
    return ceil_div(geometry.out_channels // geometry.groups, tile.columns) * tile.columns


def pack_haste_filters(
    weight: NDArray[np.float32], geometry: ConvGeometry, tile: GemmTile, precision: Precision
) -> NDArray[np.float32]:
    """(K, C/groups, kh, kw) to [groups][C/groups][kh · kw][K/groups], zero-padded, for products of ``precision``."""
    per_group = geometry.out_channels // geometry.groups
    packed = np.zeros((geometry.groups, weight.shape[1], geometry.taps, padded_columns(geometry, tile)), np.float32)
    split = weight.reshape(geometry.groups, per_group, weight.shape[1], geometry.taps)
    packed[..., :per_group] = split.transpose(0, 2, 3, 1)
    return round_filters(packed, precision)


def merged_filters_shape(geometry: ConvGeometry, batch: int, tile: GemmTile) -> tuple[int, ...]:
    """(patches · conv groups, groups and the mask, kh · kw, padded filters)."""
    entries = batch * geometry.patch_grid[0] * geometry.patch_grid[1] * geometry.groups
    most = geometry.in_channels // geometry.groups // 2 + 1
    return entries, most, geometry.taps, padded_columns(geometry, tile)


def merge_filters_kernel(
    name: str, geometry: ConvGeometry, batch: int, tile: GemmTile, precision: Precision
) -> tirx.PrimFunc:
    """The kernel (order, coeff, starts, counts, packed filters, merged filters): F_g = sum of a_c F_c.

    They are rounded as the packed filters are, for products of ``precision``.

    Behind a patch's groups comes the filter of the carried means, sum of d_c F_c, which is convolved with the mask.
    """
    channels, columns = geometry.in_channels // geometry.groups, padded_columns(geometry, tile)
    layout, shape = GroupLayout(geometry, batch), merged_filters_shape(geometry, batch, tile)
    size = geometry.taps * columns
    arguments = [
        *layout.tensors("order", "coeff", "starts", "counts"),
        ("filters", (geometry.groups, channels, geometry.taps, columns), FLOAT32.dtype),
        ("merged_filters", shape, FLOAT32.dtype),
    ]

    def body(order: Expr, coeff: Expr, starts: Expr, counts: Expr, filters: Expr, merged: Expr) -> None:
        grid = (shape[0], ceil_div(size, _THREADS), _SHARES)
        with emit.launch(grid, _THREADS) as ((entry, block, share), thread):
            at = bind(block * _THREADS + thread)
            groups, flats = (counts[layout.at("counts", entry, COUNTS.index(kind))] for kind in ("groups", "flats"))
            count = bind(groups + T.min(flats, 1))
            group = bind(entry % geometry.groups)
            with T.If(at < size), T.Then(), emit.share(count, share, _SHARES) as row:
                start = bind(layout.at("starts", entry, row))
                begin, end = bind(starts[start]), bind(starts[start + 1])
                total = emit.Variable(T.float32(0))
                with T.serial(0, end - begin) as i:
                    channel = bind(order[layout.at("order", entry, begin + i)])
                    value = filters[(group * channels + channel) * size + at]
                    total.add(coeff[layout.at("coeff", entry, channel)] * value)
                value = intrinsics.round_to_tf32(total.get()) if precision == "tf32" else total.get()
                T.buffer_store(merged, value, [(entry * shape[1] + row) * size + at])

    return emit.kernel(name, arguments, body)


def haste_convolve_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: int,
    tile: GemmTile,
    precision: Precision,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (merged, order, counts, packed filters, merged filters, bias (K,)[, residual NHWC], y NHWC)."""
    channels, columns = geometry.in_channels // geometry.groups, padded_columns(geometry, tile)
    shape = (batch, *geometry.output_size, geometry.out_channels)
    arguments = [
        *GroupLayout(geometry, batch).tensors("merged", "order", "counts"),
        ("filters", (geometry.groups, channels, geometry.taps, columns), FLOAT32.dtype),
        ("merged_filters", merged_filters_shape(geometry, batch, tile), FLOAT32.dtype),
        ("bias", (geometry.out_channels,), FLOAT32.dtype),
        *([("residual", shape, FLOAT32.dtype)] if residual else []),
        ("y", shape, FLOAT32.dtype),
    ]

    def body(*buffers: Expr) -> None:
        epilogue = Epilogue(buffers[5], buffers[6] if residual else None, activation)
        _Convolve(geometry, batch, tile, precision, buffers, epilogue).write()

    return emit.kernel(name, arguments, body)


class _Convolve:
    """Emits the kernel."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: int,
        tile: GemmTile,
        precision: Precision,
        buffers: tuple[Expr, ...],
        epilogue: Epilogue,
    ) -> None:
        self.geometry, self.batch, self.tile, self.precision = geometry, batch, tile, precision
        self.merged, self.order, self.counts, self.filters, self.merged_filters = buffers[:5]
        self.epilogue, self.y = epilogue, buffers[-1]
        self.layout = GroupLayout(geometry, batch)
        self.channels = self.layout.channels
        self.group_out = geometry.out_channels // geometry.groups
        self.columns = padded_columns(geometry, tile)

    def write(self) -> None:
        """All blocks: one for each tile of a patch's output pixels and filters."""
        geometry, tile = self.geometry, self.tile
        grid_h, grid_w = geometry.patch_grid
        self.patch_h, self.patch_w = geometry.effective_patch
        down = ceil_div(self.patch_h * self.patch_w, tile.rows)
        entries = self.batch * grid_h * grid_w * geometry.groups
        grid = (entries * down, self.columns // tile.columns)
        with emit.launch(grid, tile.threads) as ((block, block_column), thread):
            self.entry, row0 = bind(block // down), bind(block % down * tile.rows)
            column0 = bind(block_column * tile.columns)
            self.group = bind(self.entry % geometry.groups)
            patch = bind(self.entry // geometry.groups)
            place = bind(patch % (grid_h * grid_w))
            out_row, out_column = bind(place // grid_w * self.patch_h), bind(place % grid_w * self.patch_w)
            counts = self.layout.read_counts(self.counts, self.entry)
            self.mixed = bind(counts.groups + T.min(counts.flats, 1))
            self.kept, self.first_single = bind(self.mixed + counts.singles), bind(counts.members + counts.flats)
            self.depth = bind((self.kept + 3) // 4 * 4)
            product = BlockProduct(tile, self.precision, thread)
            rows = self._row_starts(thread, row0)

            def fill(stage: Expr, step: Expr) -> None:
                self._copy_windows(product, thread, stage, step, rows)
                self._copy_filters(product, thread, stage, step, column0)

            product.run(bind((geometry.taps * self.depth + DEPTH - 1) // DEPTH), fill)
            out_h, out_w = geometry.output_size

            def write(row: Expr, column: Expr, values: list[Expr]) -> None:
                place = bind(row0 + row)
                y, x = bind(out_row + place // self.patch_w), bind(out_column + place % self.patch_w)
                channel = bind(column0 + column)
                pixel = bind((patch // (grid_h * grid_w) * out_h + y) * out_w + x)
                at = bind(pixel * geometry.out_channels + self.group * self.group_out + channel)
                inside = tirx.all(place < self.patch_h * self.patch_w, y < out_h, x < out_w)
                with T.If(inside), T.Then():
                    first = self.group * self.group_out
                    write_values(values, channel, self.group_out, self.y, at, first, self.epilogue)

            product.write(write)

    def _row_starts(self, thread: Expr, row0: Expr) -> Expr:
        """For each row that the thread copies, the pixel of the window where its first tap is; -1 off the patch."""
        step = self.tile.threads // (DEPTH // 4)
        count = ceil_div(self.tile.rows, step)
        rows = emit.registers(count, "int32")
        (sh, sw), width = self.geometry.stride, self.geometry.window[1]
        with emit.unroll(count) as i:
            place = bind(row0 + thread // (DEPTH // 4) + i * step)
            pixel = bind(place // self.patch_w * sh * width + place % self.patch_w * sw)
            T.buffer_store(rows, tirx.Select(place < self.patch_h * self.patch_w, pixel, T.int32(-1)), [i])
        return rows

    def _copy_windows(self, product: BlockProduct, thread: Expr, stage: Expr, step: Expr, rows: Expr) -> None:
        geometry = self.geometry
        across = DEPTH // 4
        k, apart = bind(thread % across * 4), self.tile.threads // across
        depth = bind(step * DEPTH + k)
        tap, slot = bind(depth // self.depth), bind(depth % self.depth)
        (dh, dw), kw = geometry.dilation, geometry.kernel[1]
        offset = bind(tap // kw * dh * geometry.window[1] + tap % kw * dw)
        with emit.unroll(ceil_div(self.tile.rows, apart)) as i:
            on = tirx.all(rows[i] >= 0, tap < geometry.taps)
            pixel = tirx.Select(on, rows[i] + offset, 0)
            at = self.layout.at("merged", self.entry, pixel, slot)
            target = product.first_index(stage, thread // across + i * apart, k)
            intrinsics.copy_async(product.memory, target, self.merged, at, on, 4)

    def _copy_filters(self, product: BlockProduct, thread: Expr, stage: Expr, step: Expr, column0: Expr) -> None:
        geometry, tile = self.geometry, self.tile
        across = tile.columns // 4
        column, apart = bind(thread % across * 4), tile.threads // across
        most = self.channels // 2 + 1
        with emit.unroll(ceil_div(DEPTH, apart)) as i:
            row = bind(thread // across + i * apart)
            depth = bind(step * DEPTH + row)
            tap, slot = bind(depth // self.depth), bind(depth % self.depth)
            target = product.second_index(stage, row, column)
            inside = bind(tap * self.columns + column0 + column)
            size = geometry.taps * self.columns
            with T.If(tirx.all(slot >= self.mixed, slot < self.kept, tap < geometry.taps)):
                with T.Then():
                    place = self.layout.at("order", self.entry, self.first_single + slot - self.mixed)
                    single = bind(self.order[place])
                    at = (self.group * self.channels + single) * size + inside
                    intrinsics.copy_async(product.memory, target, self.filters, at, T.bool(True), 4)
                with T.Else():
                    on = tirx.all(slot < self.mixed, tap < geometry.taps)
                    at = tirx.Select(on, (self.entry * most + slot) * size + inside, 0)
                    intrinsics.copy_async(product.memory, target, self.merged_filters, at, on, 4)
