"""A patch's window: read channel-last, where hashing and norms are cheap, and written channel-first for the rest."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.layout import mask_row, reads_padding
from haste_compiler.methods.haste.cpu.place import Place


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


def find_window(place: Place) -> Window:
    """Emit where a patch's window is."""
    geometry = place.geometry
    (height, width), (sh, sw), (out_h, out_w) = geometry.input_size, geometry.stride, geometry.output_size
    top, _, left, _ = geometry.padding
    patch_h, patch_w = geometry.effective_patch
    outputs_down = emit.bind(T.min(patch_h, out_h - place.patch_row * patch_h))
    outputs_across = emit.bind(T.min(patch_w, out_w - place.patch_column * patch_w))
    origin_y = emit.bind(place.patch_row * patch_h * sh - top)
    origin_x = emit.bind(place.patch_column * patch_w * sw - left)
    reach_h, reach_w = ((geometry.kernel[axis] - 1) * geometry.dilation[axis] for axis in (0, 1))
    row0, column0 = emit.bind(T.max(0, -origin_y)), emit.bind(T.max(0, -origin_x))
    row1 = emit.bind(T.min((outputs_down - 1) * sh + reach_h + 1, height - origin_y))
    column1 = emit.bind(T.min((outputs_across - 1) * sw + reach_w + 1, width - origin_x))
    rows, columns = emit.bind(T.max(0, row1 - row0)), emit.bind(T.max(0, column1 - column0))
    on_image = emit.bind(rows * columns)
    on_border = emit.bind(reads_padding(geometry, origin_y, origin_x, outputs_down, outputs_across))
    return Window(origin_y, origin_x, row0, column0, rows, columns, on_image, on_border)


def read_window(place: Place, window: Window, x: Expr, last: Expr, moments: tuple[Expr, Expr] | None = None) -> None:
    """Copy the window, zeros where nothing is read.

    A vector of channels at a time: its pixels lie together, channel-last, and are in the first-level cache when
    they are transposed.

    Args:
        place: where its patch lies.
        window: which of its pixels are on the image.
        x: the images, NHWC.
        last: scratch memory for the window channel-last, a vector of channels after the other.
        moments: two buffers (C/groups,): written, sums and squared norms of every channel.
    """
    (height, width), stride = place.geometry.input_size, place.geometry.in_channels

    def zero(start: Expr, floats: int) -> None:
        emit.sweep(floats, place.lanes, lambda i, n: emit.store(last, start + i, emit.splat(0.0, n), n))

    def read(channel: Expr, n: int) -> None:
        total, square = emit.Register(n, 0.0), emit.Register(n, 0.0)
        block = emit.bind(channel * place.row)
        with T.If(window.on_image < place.pixels), T.Then():
            zero(block, place.pixels * n)
        zero(block + place.pixels * n, (place.row - place.pixels) * n)
        with T.serial(0, window.rows) as r:
            row = emit.bind(r + window.row0)
            start = ((place.image * height + window.top + row) * width + window.left + window.column0) * stride
            source = emit.bind(start + place.first_channel + channel)
            target = emit.bind(block + (row * place.geometry.window[1] + window.column0) * n)
            with T.serial(0, window.columns) as column:
                value = T.bind(emit.load(x, source + column * stride, n))
                emit.store(last, target + column * n, value, n)
                if moments is not None:
                    total.add(value)
                    square.add(value * value)
        if moments is not None:
            emit.store(moments[0], channel, total.get(), n)
            emit.store(moments[1], channel, square.get(), n)
        _transpose(place, last, channel, block, n)

    emit.sweep(place.channels, place.lanes, read)


def _transpose(place: Place, last: Expr, channel: Expr, block: Expr, n: int) -> None:
    """The windows of ``n`` channels channel-first, a square of vectors at a time."""
    lanes, windows = place.lanes, place.windows
    with T.serial(0, place.row // lanes) as step:
        pixel = emit.bind(step * lanes)
        rows = [T.bind(emit.load(last, block + (pixel + p) * n, n)) for p in range(lanes)]
        if n == lanes:
            for c, values in enumerate(emit.transposed(rows)):
                emit.store(windows, place.own(channel + c) + pixel, values, lanes)
        else:
            for p, values in enumerate(rows):
                emit.store(windows, place.own(channel) + pixel + p, values, n, stride=place.row)


def write_mask(place: Place, window: Window) -> None:
    """The window of the carried means: one on the image, zero in the padding."""
    windows = place.windows
    start = emit.bind(place.own(mask_row(place.channels)))
    emit.sweep(place.row, place.lanes, lambda i, n: emit.store(windows, start + i, emit.splat(0.0, n), n))
    with T.serial(0, window.rows) as r, T.serial(0, window.columns) as column:
        at = start + (r + window.row0) * place.geometry.window[1] + column + window.column0
        T.buffer_store(windows, T.float32(1), [at])
