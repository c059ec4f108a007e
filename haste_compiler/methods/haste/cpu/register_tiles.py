"""A patch's register tiles: the products of what is left of its channels, added up in registers and written out."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import is_long, write_output
from haste_compiler.codegen.cpu.kernels.conv2d import activate, tile_pieces, write_valid
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.task import Task

_MOST_UNROLLED_TAPS = 9

Sums = list[list[emit.Register]]
"""The register tile, [pixels][vectors]."""


def convolve_tiles(task: Task, k_tile: Expr, packed: Expr) -> None:
    """All register tiles of the patch, of tile ``k_tile`` of the conv group's output channels, ``packed`` of all."""
    layer, tensors, tile, counts = task.layer, task.tensors, task.layer.tile, task.counts
    (sh, sw), qw = layer.geometry.stride, layer.geometry.window[1]
    patch_h, patch_w = layer.geometry.effective_patch
    filled_rows = emit.bind(T.min(layer.tiles_down, (task.rows + tile.rows - 1) // tile.rows))
    filled_columns = emit.bind(T.min(layer.tiles_across, (task.columns + tile.columns - 1) // tile.columns))
    tiles = layer.tiles_down * layer.tiles_across
    with T.serial(0, filled_rows) as i, T.serial(0, filled_columns) as j:
        row = emit.bind(emit.minimum(i * tile.rows, patch_h - tile.rows))
        column = emit.bind(emit.minimum(j * tile.columns, patch_w - tile.columns))
        sums = [layer.registers(tile.vectors) for _ in range(tile.pixels)]
        for pixel in sums:
            for v, register in enumerate(pixel):
                register.set(task.start[v].get())
        corner = emit.bind(task.place.window + row * sh * qw + column * sw)
        turn = emit.bind(task.turn * tiles + i * layer.tiles_across + j)
        with T.serial(0, counts.singles) as s:
            channel = emit.bind(tensors.order[task.singles + s])
            task.prefetch(packed, channel, turn, layer.sharing * tiles)
            _add_channel(task, sums, corner + channel * layer.row, tensors.filters, task.filter(packed, channel))
        with T.serial(0, task.convolved.get()) as g:
            merged_row = emit.bind(tensors.rows[task.group_list + g])
            _add_channel(task, sums, corner + merged_row * layer.row, task.merged, g * layer.filter_elements)
        _write(task, sums, k_tile, row, column)


def _add_channel(task: Task, sums: Sums, window: Expr, filters: Expr, start: Expr) -> None:
    """Add one channel's products: its window begins at ``window``, its filters at ``start`` of ``filters``."""
    window, start = emit.bind(window), emit.bind(start)
    layer, tile = task.layer, task.layer.tile
    (kh, kw), (dh, dw), (sh, sw) = layer.geometry.kernel, layer.geometry.dilation, layer.geometry.stride
    qw = layer.geometry.window[1]

    def tap(i: Expr, j: int) -> None:
        at = start + (i * kw + j) * tile.channels
        w = [T.bind(emit.load(filters, at + v * tile.lanes, tile.lanes)) for v in range(tile.vectors)]
        for p, pixel in enumerate(sums):
            py, px = divmod(p, tile.columns)
            offset = i * dh * qw + (py * sh * qw + j * dw + px * sw)
            value = T.bind(emit.splat(task.place.windows[window + offset], tile.lanes))
            for v, register in enumerate(pixel):
                register.add(value * w[v])

    if layer.taps <= _MOST_UNROLLED_TAPS:
        for i in range(kh):
            for j in range(kw):
                tap(i, j)
    else:
        with T.serial(0, kh) as i:
            for j in range(kw):
                tap(i, j)


def _write(task: Task, sums: Sums, k_tile: Expr, row: Expr, column: Expr) -> None:
    """Residual, activation, store; the last tile of output channels may have fewer of them."""
    layer, tile = task.layer, task.layer.tile
    out_h, out_w = layer.geometry.output_size
    channel = emit.bind(task.group * layer.group_out + k_tile * tile.channels)
    y, x = task.out_row + row, task.out_column + column
    start = emit.bind(((task.place.image * out_h + y) * out_w + x) * layer.geometry.out_channels + channel)
    rest = layer.group_out - (layer.k_tiles - 1) * tile.channels
    write_valid(
        k_tile,
        layer.k_tiles,
        (tile.channels, rest),
        lambda valid: _write_pixels(task, sums, start, (row, column), valid),
    )


def _write_pixels(task: Task, sums: Sums, start: Expr, corner: tuple[Expr, Expr], valid: int) -> None:
    """The first ``valid`` channels of every pixel that is one of the patch's own outputs."""
    layer, tile, (row, column) = task.layer, task.layer.tile, corner
    (out_h, out_w), (patch_h, patch_w) = layer.geometry.output_size, layer.geometry.effective_patch
    pieces, out_channels = tile_pieces(tile, valid), layer.geometry.out_channels
    whole = out_h % patch_h == 0 and out_w % patch_w == 0

    def write_pixel(pixel: list[emit.Register], at: Expr) -> None:
        for v, offset, width in pieces:
            value = emit.load(pixel[v].buffer, offset, width)
            index = at + v * tile.lanes + offset
            write_output(task.tensors.y, index, value, width, task.tensors.residual, layer.activation)

    for p, pixel in enumerate(sums):
        py, px = divmod(p, tile.columns)
        at = start + (py * out_w + px) * out_channels
        if whole:
            write_pixel(pixel, at)
        else:
            with T.If(tirx.all(row + py < task.rows, column + px < task.columns)), T.Then():
                write_pixel(pixel, at)
    if is_long(layer.activation):
        rows, columns = emit.minimum(tile.rows, task.rows - row), emit.minimum(tile.columns, task.columns - column)
        with T.serial(0, rows) as py, T.serial(0, columns) as px:
            at = emit.bind(start + (py * out_w + px) * out_channels)
            activate(task.tensors.y, at, pieces, tile, layer.activation)
