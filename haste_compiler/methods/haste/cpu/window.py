"""A patch's window: read channel-last, where hashing and norms are cheap, and written channel-first for the rest."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.layout import mask_row, reads_padding
from haste_compiler.methods.haste.cpu.patch import Patch


@dataclass(frozen=True)
class Window:
    """Which of a window's pixels are on the image.

    Attributes:
        top, left: of the window, in the image; negative where it begins in the padding.
        row0, column0: the first of the window's pixels that is on the image.
        rows, columns: of such pixels.
        on_image: how many those are.
        on_border: whether the patch's outputs read padding.
    """

    top: Expr
    left: Expr
    row0: Expr
    column0: Expr
    rows: Expr
    columns: Expr
    on_image: Expr
    on_border: Expr

    def inverse(self) -> Expr:
        """Emit one over the number of pixels on the image: times a channel's sum it is the channel's mean."""
        return emit.bind(T.float32(1) / tirx.Cast(FLOAT32.dtype, T.max(self.on_image, 1)))


def find_window(patch: Patch) -> Window:
    """Emit where a patch's window is."""
    geometry = patch.geometry
    (height, width), (sh, sw), (out_h, out_w) = geometry.input_size, geometry.stride, geometry.output_size
    top, _, left, _ = geometry.padding
    patch_h, patch_w = geometry.effective_patch
    outputs_down = emit.bind(T.min(patch_h, out_h - patch.patch_row * patch_h))
    outputs_across = emit.bind(T.min(patch_w, out_w - patch.patch_column * patch_w))
    origin_y = emit.bind(patch.patch_row * patch_h * sh - top)
    origin_x = emit.bind(patch.patch_column * patch_w * sw - left)
    reach_h, reach_w = ((geometry.kernel[axis] - 1) * geometry.dilation[axis] for axis in (0, 1))
    row0, column0 = emit.bind(T.max(0, -origin_y)), emit.bind(T.max(0, -origin_x))
    row1 = emit.bind(T.min((outputs_down - 1) * sh + reach_h + 1, height - origin_y))
    column1 = emit.bind(T.min((outputs_across - 1) * sw + reach_w + 1, width - origin_x))
    rows, columns = emit.bind(T.max(0, row1 - row0)), emit.bind(T.max(0, column1 - column0))
    on_image = emit.bind(rows * columns)
    on_border = emit.bind(reads_padding(geometry, origin_y, origin_x, outputs_down, outputs_across))
    return Window(origin_y, origin_x, row0, column0, rows, columns, on_image, on_border)


def read_window(patch: Patch, window: Window) -> None:
    """Copy the window, zeros where nothing is read; sums and squared norms of every channel.

    A vector of channels at a time: its pixels lie together, channel-last, and are in the first-level cache when
    they are transposed.
    """
    scratch, last = patch.scratch, patch.scratch.last
    (height, width), stride = patch.geometry.input_size, patch.geometry.in_channels

    def zero(start: Expr, floats: int) -> None:
        emit.sweep(floats, patch.lanes, lambda i, n: emit.store(last, start + i, emit.splat(0.0, n), n))

    def read(channel: Expr, n: int) -> None:
        total, square = emit.Register(n, 0.0), emit.Register(n, 0.0)
        block = emit.bind(channel * patch.row)
        with T.If(window.on_image < patch.pixels), T.Then():
            zero(block, patch.pixels * n)
        zero(block + patch.pixels * n, (patch.row - patch.pixels) * n)
        with T.serial(0, window.rows) as r:
            row = emit.bind(r + window.row0)
            start = ((patch.image * height + window.top + row) * width + window.left + window.column0) * stride
            source = emit.bind(start + patch.first_channel + channel)
            target = emit.bind(block + (row * patch.geometry.window[1] + window.column0) * n)
            with T.serial(0, window.columns) as column:
                value = T.bind(emit.load(patch.tensors.x, source + column * stride, n))
                emit.store(last, target + column * n, value, n)
                total.add(value)
                square.add(value * value)
        emit.store(scratch.sums, channel, total.get(), n)
        emit.store(scratch.squares, channel, square.get(), n)
        _transpose(patch, channel, block, n)

    emit.sweep(patch.channels, patch.lanes, read)


def _transpose(patch: Patch, channel: Expr, block: Expr, n: int) -> None:
    """The windows of ``n`` channels channel-first, a square of vectors at a time."""
    lanes, windows = patch.lanes, patch.tensors.windows
    with T.serial(0, patch.row // lanes) as step:
        pixel = emit.bind(step * lanes)
        rows = [T.bind(emit.load(patch.scratch.last, block + (pixel + p) * n, n)) for p in range(lanes)]
        if n == lanes:
            for c, values in enumerate(emit.transposed(rows)):
                emit.store(windows, patch.own(channel + c) + pixel, values, lanes)
        else:
            for p, values in enumerate(rows):
                emit.store(windows, patch.own(channel) + pixel + p, values, n, stride=patch.row)


def write_mask(patch: Patch, window: Window) -> None:
    """The window of the carried means: one on the image, zero in the padding."""
    windows = patch.tensors.windows
    start = emit.bind(patch.own(mask_row(patch.channels)))
    emit.sweep(patch.row, patch.lanes, lambda i, n: emit.store(windows, start + i, emit.splat(0.0, n), n))
    with T.serial(0, window.rows) as r, T.serial(0, window.columns) as column:
        at = start + (r + window.row0) * patch.geometry.window[1] + column + window.column0
        T.buffer_store(windows, T.float32(1), [at])
