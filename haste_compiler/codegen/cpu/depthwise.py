"""Depthwise convolution: channels in the lanes, a few output pixels in registers, activations NHWC."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.activation import apply_activation, is_long
from haste_compiler.codegen.cpu.emit import Expr
from haste_compiler.codegen.cpu.window import copy_rows
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.target import VectorUnit
from haste_compiler.haste.geometry import ConvGeometry


def is_depthwise(geometry: ConvGeometry) -> bool:
    """One input channel and one filter a group."""
    return geometry.groups == geometry.in_channels == geometry.out_channels and geometry.groups > 1


def pack_depthwise_filters(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, 1, kh, kw) to [kh · kw][C], flat."""
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T).reshape(-1)


def depthwise_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    unit: VectorUnit,
    threads: int,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed filters, bias (C,)[, residual NHWC], y NHWC)."""
    height, width = geometry.input_size
    out_h, out_w = geometry.output_size
    channels, (kh, kw) = geometry.in_channels, geometry.kernel
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    _, _, left, right = geometry.padding
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        ("x", (batch, height, width, channels), "float32"),
        ("filters", (kh * kw * channels,), "float32"),
        ("bias", (channels,), "float32"),
    ]
    if residual:
        arguments.append(("residual", (batch, out_h, out_w, channels), "float32"))
    arguments.append(("y", (batch, out_h, out_w, channels), "float32"))
    row_floats = (width + left + right) * channels
    block = _block_rows(geometry, hint_of(batch), unit, threads, row_floats)
    pixels = min(out_w, max(1, min(8, (unit.registers - 6) // 2)))

    def body(*buffers: Expr) -> None:
        x, filters, bias, y = buffers[0], buffers[1], buffers[2], buffers[-1]
        shortcut = buffers[3] if residual else None
        blocks = math.ceil(out_h / block)
        with T.parallel(0, images_of(batch) * blocks) as task:
            image, first = emit.bind(task // blocks), emit.bind(task % blocks * block)
            rows = (block - 1) * sh + (kh - 1) * dh + 1
            source, base = copy_rows(x, geometry, image, first * sh, rows, unit.lanes)
            with T.serial(0, emit.minimum(block, out_h - first)) as row, T.serial(0, math.ceil(out_w / pixels)) as step:
                column = emit.bind(emit.minimum(step * pixels, out_w - pixels))

                def tile(c: Expr, n: int) -> None:
                    sums = [emit.Register(n) for _ in range(pixels)]
                    start = T.bind(emit.load(bias, c, n))
                    for register in sums:
                        register.set(start)
                    corner = emit.bind(base + row * sh * row_floats + column * sw * channels + c)
                    # Rows stay a loop: LLVM takes minutes over 49 unrolled taps.
                    with T.serial(0, kh) as i:
                        for j in range(kw):
                            w = T.bind(emit.load(filters, (i * kw + j) * channels + c, n))
                            for p, register in enumerate(sums):
                                at = corner + i * dh * row_floats + (j * dw + p * sw) * channels
                                register.add(emit.load(source, at, n) * w)
                    out = emit.bind(((image * out_h + first + row) * out_w + column) * channels + c)
                    for p, register in enumerate(sums):
                        value = register.get()
                        if shortcut is not None:
                            value = value + emit.load(shortcut, out + p * channels, n)
                        value = value if is_long(activation) else apply_activation(value, activation, n)
                        emit.store(y, out + p * channels, value, n)
                    if is_long(activation):
                        with T.serial(0, pixels) as p:
                            at = emit.bind(out + p * channels)
                            emit.store(y, at, apply_activation(emit.load(y, at, n), activation, n), n)

                emit.sweep(channels, unit.lanes, tile)

    return emit.kernel(name, arguments, body)


def _block_rows(geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, row_floats: int) -> int:
    """Output rows of one task: its window in a quarter of the second-level cache, and enough tasks for the threads."""
    out_h = geometry.output_size[0]
    fit = max(1, unit.l2_bytes // 4 // (row_floats * 4 * geometry.stride[0]))
    share = max(1, math.ceil(out_h * batch / threads / 2))
    return max(1, min(out_h, fit, share))
