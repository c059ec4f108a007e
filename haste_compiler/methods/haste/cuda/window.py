"""A patch's window where it lies in the image."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.methods.haste.cuda.layout import GroupLayout


class Window:
    """Emits where the pixels of window ``entry`` are in the images, NHWC."""

    def __init__(self, layout: GroupLayout, entry: Expr) -> None:
        self._geometry = layout.geometry
        geometry = layout.geometry
        grid_h, grid_w = geometry.patch_grid
        patch, group = bind(entry // geometry.groups), bind(entry % geometry.groups)
        self._image, place = bind(patch // (grid_h * grid_w)), bind(patch % (grid_h * grid_w))
        self._first_channel = bind(group * layout.channels)
        (height, width), (sh, sw), (out_h, out_w) = geometry.input_size, geometry.stride, geometry.output_size
        patch_h, patch_w = geometry.effective_patch
        out_row, out_column = bind(place // grid_w * patch_h), bind(place % grid_w * patch_w)
        rows, columns = bind(T.min(patch_h, out_h - out_row)), bind(T.min(patch_w, out_w - out_column))
        self._top = bind(out_row * sh - geometry.padding[0])
        self._left = bind(out_column * sw - geometry.padding[2])
        reach = [(geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1 for axis in (0, 1)]
        self._row0, self._column0 = bind(T.max(0, -self._top)), bind(T.max(0, -self._left))
        self._row1 = bind(T.max(self._row0, T.min((rows - 1) * sh + reach[0], height - self._top)))
        self._column1 = bind(T.max(self._column0, T.min((columns - 1) * sw + reach[1], width - self._left)))
        on_image = bind((self._row1 - self._row0) * (self._column1 - self._column0))
        self._inverse = emit.Variable(T.float32(1) / tirx.Cast(FLOAT32.dtype, T.max(on_image, 1))).get()

    def find(self, pixel: Expr) -> tuple[Expr, Expr]:
        """Whether a pixel of the window is on the image, and where its first channel is (of any if it isn't)."""
        row, column = bind(pixel // self._geometry.window[1]), bind(pixel % self._geometry.window[1])
        on = tirx.all(row >= self._row0, row < self._row1, column >= self._column0, column < self._column1)
        height, width = self._geometry.input_size
        at = (self._image * height + self._top + row) * width + self._left + column
        return on, at * self._geometry.in_channels + self._first_channel

    def value(self, x: Expr, pixel: Expr, channel: Expr) -> Expr:
        """P_c at a pixel of the window, of images ``x``: zero off them."""
        on, at = self.find(pixel)
        return emit.load_if(on, x, at + channel)

    def mean(self, total: Expr) -> Expr:
        """d_c, the mean over the pixels on the image, from their sum."""
        return total * self._inverse

    def spread(self, total: Expr, square: Expr) -> Expr:
        """|P_c - d_c|², from the sum and the sum of squares."""
        return square - total * total * self._inverse
