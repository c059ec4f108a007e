"""Pooling on NHWC activations: channels in the lanes, the window clipped to the image instead of padded."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.pooling import Pooling, nan_maximum, window_range, window_scale

_LARGE = 64
"""Pixels of a mean from which on it is summed by rows."""


def pooling_kernel(name: str, pooling: Pooling, batch: Batch, channels: int, lanes: int) -> tirx.PrimFunc:
    """The kernel (x NHWC, y NHWC). NaN wins a maximum, as in PyTorch."""
    (height, width), (out_h, out_w) = pooling.input_size, pooling.output_size
    arguments = [
        ("x", (batch, height, width, channels), FLOAT32.dtype),
        ("y", (batch, out_h, out_w, channels), FLOAT32.dtype),
    ]
    # A few outputs: share the channels out over the threads as well.
    slabs = 1
    while hint_of(batch) * out_h * slabs < 8 and channels % (slabs * 2 * lanes) == 0:
        slabs *= 2
    slab = channels // slabs

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * out_h * slabs) as task:
            image_row, first = emit.bind(task // slabs), emit.bind(task % slabs * slab)
            image, row = emit.bind(image_row // out_h), emit.bind(image_row % out_h)
            with T.serial(0, out_w) as column:
                rows, columns = window_range(pooling, 0, row), window_range(pooling, 1, column)
                scale = window_scale(pooling, row, column, rows, columns)
                out = emit.bind(((image * out_h + row) * out_w + column) * channels + first)
                source = emit.bind(image * height * width * channels + first)

                window = PooledWindow(pooling, channels, rows, columns, scale)

                def reduce(c: Expr, n: int) -> None:
                    emit.store(y, out + c, window.value(x, source + c, n), n)

                emit.sweep(slab, lanes, reduce)

    return emit.kernel(name, arguments, body)


@dataclass(frozen=True)
class PooledWindow:
    """The window of one output.

    Attributes:
        pooling: that it is of.
        channels: of a pixel.
        rows, columns: first and how many of the input it holds, see ``window_range``.
        scale: see ``window_scale``.
    """

    pooling: Pooling
    channels: int
    rows: tuple[Expr, Expr]
    columns: tuple[Expr, Expr]
    scale: Expr | None

    def value(self, x: Expr, source: Expr, n: int) -> Expr:
        """The output's value of ``n`` channels; the first of them begins at ``source`` in the image."""
        pooling, largest = self.pooling, self.pooling.kind == "max"
        (height, width), (out_h, out_w) = pooling.input_size, pooling.output_size
        # One sum of a whole map loses digits: each row has its own.
        by_rows = not largest and height * width > _LARGE * out_h * out_w
        total = emit.Register(n, float("-inf") if largest else 0.0)
        line = emit.Register(n, 0.0) if by_rows else total
        with T.serial(0, self.rows[1]) as i:
            with T.serial(0, self.columns[1]) as j:
                row, column = self.rows[0] + i * pooling.dilation[0], self.columns[0] + j * pooling.dilation[1]
                value = T.bind(emit.load(x, source + (row * width + column) * self.channels, n))
                if largest:
                    total.set(nan_maximum(value, total.get(), n))
                else:
                    line.add(value)
            if by_rows:
                total.add(line.get())
                line.set(emit.splat(0.0, n))
        result = total.get()
        return result if self.scale is None else result * emit.splat(self.scale, n)
