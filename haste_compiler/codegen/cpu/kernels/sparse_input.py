"""The product of a matrix with one vector, of which filters are read only for inputs that aren't zero.

Such a layer takes as long as its filters take to be read, each for one product. After ReLU many inputs are zero, and
their filters needn't come from memory: large ones are the first linear layers of VGG and AlexNet.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import AHEAD_BYTES, TileWriter, conv2d_arguments, is_flat
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

_LEAST_BYTES = 1 << 20
"""Smaller matrices are read in no time."""

_MOST_USED = 5 / 8
"""Where more inputs than this share are not zero, all are used: memory is read faster without gaps."""


def sparse_input_tiling(
    geometry: ConvGeometry, batch: Batch, tiling: DenseTiling, weight: NDArray[np.float32]
) -> ConvTiling | None:
    """The tiling of a dense kernel in whose place ``sparse_input_kernel`` is to be used; None: it isn't.

    It is for one pixel times a large matrix without NaN and infinities, whose products with zero are NaN.
    """
    if batch != 1 or not is_flat(geometry) or math.prod(geometry.output_size) != 1:
        return None
    assert isinstance(tiling, ConvTiling)
    return tiling if weight.nbytes >= _LEAST_BYTES and np.isfinite(weight).all() else None


def sparse_input_kernel(
    name: str, geometry: ConvGeometry, tiling: ConvTiling, *, residual: bool = False, activation: str = "none"
) -> tirx.PrimFunc:
    """The kernel (x, packed filters, packed bias[, residual], y) of one image of one pixel."""
    tile, depth = tiling.tile, geometry.in_channels
    element = tile.element
    ahead = max(1, AHEAD_BYTES // element.bytes // tile.channels)

    def body(*buffers: Expr) -> None:
        x, filters, bias, y = buffers[0], buffers[1], buffers[2], buffers[-1]
        used = T.alloc_buffer((depth,), "int32")
        end = emit.Register(1, T.int32(0), "int32")
        # Without branches: which inputs are zero can't be predicted.
        with T.serial(0, depth) as c:
            T.buffer_store(used, c, [end.get()])
            # TVM's != doesn't hold for NaN.
            end.set(end.get() + (1 - tirx.Cast("int32", x[c] == tirx.const(0.0, element.dtype))))
        with T.If(end.get() > int(_MOST_USED * depth)), T.Then():
            with T.serial(0, depth) as c:
                T.buffer_store(used, c, [c])
            end.set(T.int32(depth))
        count = emit.bind(end.get())
        writer = TileWriter(geometry, tile, activation, y, buffers[3] if residual else None)
        with T.parallel(0, math.ceil(geometry.out_channels / tile.channels)) as k_tile:
            sums = [emit.Register(tile.lanes, dtype=element.accumulator) for _ in range(tile.vectors)]
            for v, register in enumerate(sums):
                register.set(emit.load(bias, k_tile * tile.channels + v * tile.lanes, tile.lanes))
            with T.serial(0, count) as i:
                later = emit.bind(used[T.min(i + ahead, count - 1)])
                emit.prefetch_elements(filters, (k_tile * depth + later) * tile.channels, tile.channels, element)
                channel = emit.bind(used[i])
                start = emit.bind((k_tile * depth + channel) * tile.channels)
                value = T.bind(emit.splat(x[channel], tile.lanes))
                for v, register in enumerate(sums):
                    register.add(value * emit.load(filters, start + v * tile.lanes, tile.lanes))
            writer.store([sums], k_tile, 0, 0, 0)

    return emit.kernel(name, conv2d_arguments(geometry, 1, tile, residual=residual), body)
