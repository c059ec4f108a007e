"""Kernels whose every output needs few inputs: depthwise convolution, pooling, activations, transposition.

They are bound by memory: a thread computes one output, neighbouring threads neighbouring channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.cuda.kernels.activation import apply_activation
from haste_compiler.codegen.cuda.kernels.conv2d import Epilogue
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.codegen.pooling import Pooling, nan_maximum, window_range, window_scale
from haste_compiler.graph.geometry import ConvGeometry

THREADS = 256
_SIDE, _ROWS = 32, 8


def pack_depthwise_filters(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, 1, kh, kw) to [kh · kw][C]."""
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T)


def depthwise_kernel(
    name: str, geometry: ConvGeometry, batch: int, *, residual: bool = False, activation: str = "none"
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed filters, bias (C,)[, residual NHWC], y NHWC)."""
    (height, width), (out_h, out_w) = geometry.input_size, geometry.output_size
    channels, (kh, kw) = geometry.in_channels, geometry.kernel
    out_shape = (batch, out_h, out_w, channels)
    arguments = [
        ("x", (batch, height, width, channels), FLOAT32.dtype),
        ("filters", (kh * kw, channels), FLOAT32.dtype),
        ("bias", (channels,), FLOAT32.dtype),
        *([("residual", out_shape, FLOAT32.dtype)] if residual else []),
        ("y", out_shape, FLOAT32.dtype),
    ]

    def body(x: Expr, filters: Expr, bias: Expr, *rest: Expr) -> None:
        epilogue = Epilogue(bias, rest[0] if residual else None, activation)

        def output(at: Expr) -> None:
            channel, pixel = bind(at % channels), bind(at // channels)
            column, row = bind(pixel % out_w), bind(pixel // out_w % out_h)
            image = bind(pixel // (out_w * out_h))
            top = bind(row * geometry.stride[0] - geometry.padding[0])
            left = bind(column * geometry.stride[1] - geometry.padding[2])
            total = emit.Variable(T.float32(0))
            with emit.unroll(kh) as i, emit.unroll(kw) as j:
                y_in, x_in = bind(top + i * geometry.dilation[0]), bind(left + j * geometry.dilation[1])
                with T.If(tirx.all(y_in >= 0, y_in < height, x_in >= 0, x_in < width)), T.Then():
                    value = x[((image * height + y_in) * width + x_in) * channels + channel]
                    total.add(value * filters[(i * kw + j) * channels + channel])
            T.buffer_store(rest[-1], epilogue.apply(total.get(), channel, at), [at])

        emit.each_element(math.prod(out_shape), output)

    return emit.kernel(name, arguments, body)


def pooling_kernel(name: str, pooling: Pooling, batch: int, channels: int) -> tirx.PrimFunc:
    """The kernel (x NHWC, y NHWC). NaN wins a maximum, as in PyTorch."""
    if pooling.kind == "adaptive_avg" and pooling.output_size == (1, 1):
        return _mean_kernel(name, pooling, batch, channels)
    (height, width), (out_h, out_w) = pooling.input_size, pooling.output_size
    arguments = [
        ("x", (batch, height, width, channels), FLOAT32.dtype),
        ("y", (batch, out_h, out_w, channels), FLOAT32.dtype),
    ]
    outputs = batch * out_h * out_w * channels

    def body(x: Expr, y: Expr) -> None:
        def output(at: Expr) -> None:
            channel, pixel = bind(at % channels), bind(at // channels)
            column, row = bind(pixel % out_w), bind(pixel // out_w % out_h)
            image = bind(pixel // (out_w * out_h))
            rows, columns = window_range(pooling, 0, row), window_range(pooling, 1, column)
            scale = window_scale(pooling, row, column, rows, columns)
            total = emit.Variable(T.float32(float("-inf") if pooling.kind == "max" else 0.0))
            with T.serial(0, rows[1]) as i, T.serial(0, columns[1]) as j:
                y_in, x_in = rows[0] + i * pooling.dilation[0], columns[0] + j * pooling.dilation[1]
                value = T.bind(x[((image * height + y_in) * width + x_in) * channels + channel])
                if pooling.kind == "max":
                    total.set(nan_maximum(value, total.get(), 1))
                else:
                    total.add(value)
            result = total.get()
            T.buffer_store(y, result if scale is None else result * scale, [at])

        emit.each_element(outputs, output)

    return emit.kernel(name, arguments, body)


def _mean_kernel(name: str, pooling: Pooling, batch: int, channels: int) -> tirx.PrimFunc:
    """The kernel (x NHWC, y (N, 1, 1, C)): a block averages 32 channels, its warps share the pixels."""
    height, width = pooling.input_size
    pixels, warps = height * width, THREADS // 32
    arguments = [("x", (batch, height, width, channels), FLOAT32.dtype), ("y", (batch, 1, 1, channels), FLOAT32.dtype)]

    def body(x: Expr, y: Expr) -> None:
        with emit.launch((ceil_div(channels, 32), batch), THREADS) as ((block, image), thread):
            lane, warp = bind(thread % 32), bind(thread // 32)
            channel = bind(block * 32 + lane)
            parts = emit.shared(THREADS)
            total = emit.Variable(T.float32(0))
            with T.If(channel < channels), T.Then(), emit.share(pixels, warp, warps) as pixel:
                total.add(x[(image * pixels + pixel) * channels + channel])
            T.buffer_store(parts, total.get(), [thread])
            emit.barrier()
            with T.If(tirx.all(warp == 0, channel < channels)), T.Then():
                whole = emit.Variable(T.float32(0))
                with emit.unroll(warps) as part:
                    whole.add(parts[part * 32 + lane])
                T.buffer_store(y, whole.get() * T.float32(1 / pixels), [image * channels + channel])

    return emit.kernel(name, arguments, body)


def activation_kernel(name: str, shape: Sequence[int], activation: str) -> tirx.PrimFunc:
    """The kernel (x, y), both of ``shape``."""

    def body(x: Expr, y: Expr) -> None:
        emit.each_element(math.prod(shape), lambda at: T.buffer_store(y, apply_activation(x[at], activation), [at]))

    return emit.kernel(name, [("x", shape, FLOAT32.dtype), ("y", shape, FLOAT32.dtype)], body)


def transpose_kernel(
    name: str, batch: int, rows: int, columns: int, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> tirx.PrimFunc:
    """The kernel (x, y): each of ``batch`` matrices of ``rows`` × ``columns`` transposed; ``shapes`` of x and y.

    A square goes through shared memory, so that reads and writes both run along rows.
    """

    def body(x: Expr, y: Expr) -> None:
        across, down = ceil_div(columns, _SIDE), ceil_div(rows, _SIDE)
        with emit.launch((across * down * batch,), _SIDE * _ROWS) as ((block,), thread):
            image, place = bind(block // (across * down)), bind(block % (across * down))
            row0, column0 = bind(place // across * _SIDE), bind(place % across * _SIDE)
            x_thread, y_thread = bind(thread % _SIDE), bind(thread // _SIDE)
            # One more column, so that a column's elements lie in different banks.
            square = emit.shared(_SIDE * (_SIDE + 1))
            with emit.unroll(_SIDE // _ROWS) as i:
                line = bind(y_thread + i * _ROWS)
                row, column = bind(row0 + line), bind(column0 + x_thread)
                with T.If(tirx.all(row < rows, column < columns)), T.Then():
                    value = x[(image * rows + row) * columns + column]
                    T.buffer_store(square, value, [line * (_SIDE + 1) + x_thread])
            emit.barrier()
            with emit.unroll(_SIDE // _ROWS) as i:
                line = bind(y_thread + i * _ROWS)
                row, column = bind(row0 + x_thread), bind(column0 + line)
                with T.If(tirx.all(row < rows, column < columns)), T.Then():
                    value = square[x_thread * (_SIDE + 1) + line]
                    T.buffer_store(y, value, [(image * columns + column) * rows + row])

    before, after = shapes
    return emit.kernel(name, [("x", before, FLOAT32.dtype), ("y", after, FLOAT32.dtype)], body)
