"""Pooling of kept images: outputs whose window holds a pixel that changed."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.kept import Kept, Planes, plane_arguments
from haste_compiler.codegen.cpu.kernels.pooling import PooledWindow
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.pooling import Pooling, window_range, window_scale


def kept_pooling_kernel(name: str, pooling: Pooling, batch: int, channels: int, lanes: int) -> tirx.PrimFunc:
    """The kernel (x NHWC, its sizes, its changes, tolerances, y NHWC, its sizes, its changes)."""
    (height, width), (out_h, out_w) = pooling.input_size, pooling.output_size

    def body(x: Expr, _: Expr, moved: Expr, tolerances: Expr, y: Expr, sizes: Expr, changes: Expr) -> None:
        kept = Kept(y, Planes(sizes, changes, pooling.output_size), channels, lanes)
        with T.parallel(0, batch * out_h) as task:
            image, row = emit.bind(task // out_h), emit.bind(task % out_h)
            rows = window_range(pooling, 0, row)
            with T.serial(0, out_w) as column:
                columns = window_range(pooling, 1, column)
                pixel = emit.bind(task * out_w + column)
                change = emit.Register(1, T.float32(0))
                with T.serial(0, rows[1]) as i, T.serial(0, columns[1]) as j:
                    line = image * height + rows[0] + i * pooling.dilation[0]
                    change.add(moved[line * width + columns[0] + j * pooling.dilation[1]])
                scale = window_scale(pooling, row, column, rows, columns)
                window = PooledWindow(pooling, channels, rows, columns, scale)
                start = emit.bind(image * height * width * channels)
                still = tirx.all(change.get() <= T.float32(0), tolerances[0] >= T.float32(0))
                with T.If(still):
                    with T.Then():
                        emit.store(changes, pixel, T.float32(0))
                    with T.Else():
                        kept.write(pixel, lambda c, n: window.value(x, start + c, n))

    arguments = [
        ("x", (batch, height, width, channels), FLOAT32.dtype),
        *plane_arguments("x", batch, pooling.input_size),
        ("tolerances", (2,), FLOAT32.dtype),
        ("y", (batch, out_h, out_w, channels), FLOAT32.dtype),
        *plane_arguments("y", batch, pooling.output_size),
    ]
    return emit.kernel(name, arguments, body)
