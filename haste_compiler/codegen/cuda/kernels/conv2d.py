"""Dense convolution as a matrix product: a row for every output pixel, a column for every filter, NHWC.

The rows of the first matrix, what an output pixel reads, are never written out: their parts are copied from the image
into shared memory as the product needs them, zeros where a tap falls off the image. Bias, residual and activation are
applied to the sums in registers. Where the depth is cut into parts, sums go to memory and ``add_parts_kernel`` ends it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.cuda.kernels import intrinsics
from haste_compiler.codegen.cuda.kernels.activation import apply_activation
from haste_compiler.codegen.cuda.kernels.gemm import BlockProduct, round_filters
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import DEPTH, MOST_SPLITS, GemmTile, GemmTiling, choose_gemm
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.graph.geometry import ConvGeometry

_OFF_THE_IMAGE = -(1 << 24)


def choose_tiling(
    geometry: ConvGeometry, batch: int, processors: int, precision: Precision, most_splits: int = MOST_SPLITS
) -> tuple[float, GemmTiling]:
    """Modelled time and tiling of a dense convolution on a card with so many multiprocessors; see ``choose_gemm``."""
    out_h, out_w = geometry.output_size
    return choose_gemm(
        batch * out_h * out_w,
        geometry.out_channels // geometry.groups,
        _depth(geometry),
        geometry.groups,
        processors,
        precision,
        most_splits,
    )


def _depth(geometry: ConvGeometry) -> int:
    return geometry.taps * (geometry.in_channels // geometry.groups)


def padded_filters(geometry: ConvGeometry, tile: GemmTile) -> tuple[int, int, int]:
    """Shape of the packed filters: conv groups, depth and filters padded to whole steps and tiles."""
    columns = ceil_div(geometry.out_channels // geometry.groups, tile.columns) * tile.columns
    return geometry.groups, ceil_div(_depth(geometry), DEPTH) * DEPTH, columns


def pack_filters(
    weight: NDArray[np.float32], geometry: ConvGeometry, tile: GemmTile, precision: Precision
) -> NDArray[np.float32]:
    """(K, C/groups, kh, kw) to [groups][kh · kw · C/groups][K/groups], zero-padded, for products of ``precision``."""
    groups, depth, columns = padded_filters(geometry, tile)
    per_group = geometry.out_channels // groups
    packed = np.zeros((groups, depth, columns), np.float32)
    split = weight.reshape(groups, per_group, weight.shape[1], -1).transpose(0, 3, 2, 1)
    packed[:, : _depth(geometry), :per_group] = split.reshape(groups, -1, per_group)
    return round_filters(packed, precision)


def conv2d_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: int,
    tiling: GemmTiling,
    precision: Precision,
    *,
    residual: bool = False,
    activation: str = "none",
    sums: bool = False,
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed filters, bias (K,)[, residual NHWC], y NHWC).

    With a cut depth, or for ``sums``, it is (x, packed filters, y (parts, pixels, K)), without an epilogue.
    """
    sums = sums or tiling.splits > 1
    out_shape = (batch, *geometry.output_size, geometry.out_channels)
    pixels, filters = batch * out_shape[1] * out_shape[2], geometry.out_channels
    arguments = [
        ("x", (batch, *geometry.input_size, geometry.in_channels), FLOAT32.dtype),
        ("filters", padded_filters(geometry, tiling.tile), FLOAT32.dtype),
    ]
    if not sums:
        arguments += [
            ("bias", (filters,), FLOAT32.dtype),
            *([("residual", out_shape, FLOAT32.dtype)] if residual else []),
        ]
        arguments.append(("y", out_shape, FLOAT32.dtype))
    else:
        arguments.append(("y", (tiling.splits, pixels, filters), FLOAT32.dtype))

    def body(*buffers: Expr) -> None:
        epilogue = Epilogue()
        if not sums:
            epilogue = Epilogue(buffers[2], buffers[3] if residual else None, activation)
        _Conv2d(geometry, batch, tiling, precision).write(buffers[0], buffers[1], buffers[-1], epilogue)

    return emit.kernel(name, arguments, body)


class Epilogue:
    """What is done to a sum before it is written: bias and residual added, the activation applied.

    Args:
        bias: (K,), or None for neither.
        residual: laid out as the output, or None.
        activation: its name.
    """

    def __init__(self, bias: Expr | None = None, residual: Expr | None = None, activation: str = "none") -> None:
        self.bias, self.residual, self.activation = bias, residual, activation

    def apply(self, value: Expr, channel: Expr, at: Expr) -> Expr:
        """The output value from a sum; ``at`` is its place in the output."""
        if self.bias is not None:
            value = value + self.bias[channel]
        if self.residual is not None:
            value = value + self.residual[at]
        return apply_activation(value, self.activation)


class _Conv2d:
    """Emits one kernel."""

    def __init__(self, geometry: ConvGeometry, batch: int, tiling: GemmTiling, precision: Precision) -> None:
        self.geometry, self.batch, self.tiling, self.precision = geometry, batch, tiling, precision
        self.group_in = geometry.in_channels // geometry.groups
        self.group_out = geometry.out_channels // geometry.groups
        self.pixels = batch * geometry.output_size[0] * geometry.output_size[1]
        self.depth = _depth(geometry)

    def write(self, x: Expr, filters: Expr, y: Expr, epilogue: Epilogue) -> None:
        tile, splits, geometry = self.tiling.tile, self.tiling.splits, self.geometry
        steps = ceil_div(self.depth, DEPTH)
        part_steps = ceil_div(steps, splits)
        grid = (
            ceil_div(self.pixels, tile.rows),
            ceil_div(self.group_out, tile.columns),
            geometry.groups * splits,
        )
        with emit.launch(grid, tile.threads) as ((block_row, block_column, place), thread):
            group, part = bind(place // splits), bind(place % splits)
            row0, column0 = bind(block_row * tile.rows), bind(block_column * tile.columns)
            product = BlockProduct(tile, self.precision, thread)
            pixels = PixelRows(geometry, self.batch, tile, thread, row0)
            first = bind(part * part_steps)

            def fill(stage: Expr, step: Expr) -> None:
                pixels.copy(product, stage, x, group, bind((first + step) * DEPTH))
                start = bind((group * steps + first + step) * DEPTH * padded_filters(geometry, tile)[2] + column0)
                copy_second(product, thread, stage, filters, start, padded_filters(geometry, tile)[2])

            product.run(bind(T.min(part_steps, steps - first)), fill)

            def write(row: Expr, column: Expr, values: list[Expr]) -> None:
                pixel, channel = bind(row0 + row), bind(column0 + column)
                at = bind((part * self.pixels + pixel) * geometry.out_channels + group * self.group_out + channel)
                with T.If(pixel < self.pixels), T.Then():
                    write_values(values, channel, self.group_out, y, at, group * self.group_out, epilogue)

            product.write(write)


class PixelRows:
    """The rows of the first matrix that one thread copies: where their output pixels read the image."""

    def __init__(self, geometry: ConvGeometry, batch: int, tile: GemmTile, thread: Expr, row0: Expr) -> None:
        self.geometry, self.tile = geometry, tile
        channels = geometry.in_channels // geometry.groups
        self.width = 4 if channels % 4 == 0 else 1
        across = DEPTH // self.width
        self.step = tile.threads // across
        self.count = ceil_div(tile.rows, self.step)
        self.k, self.first = bind(thread % across * self.width), bind(thread // across)
        self.base, self.top, self.left = (emit.registers(self.count, "int32") for _ in range(3))
        (out_h, out_w), (height, width) = geometry.output_size, geometry.input_size
        with emit.unroll(self.count) as i:
            pixel = bind(row0 + self.first + i * self.step)
            image, place = bind(pixel // (out_h * out_w)), bind(pixel % (out_h * out_w))
            top = bind(place // out_w * geometry.stride[0] - geometry.padding[0])
            on = pixel < batch * out_h * out_w
            T.buffer_store(self.top, tirx.Select(on, top, _OFF_THE_IMAGE), [i])
            T.buffer_store(self.left, place % out_w * geometry.stride[1] - geometry.padding[2], [i])
            T.buffer_store(self.base, image * height * width, [i])

    def copy(self, product: BlockProduct, stage: Expr, x: Expr, group: Expr, depth0: Expr) -> None:
        """Begin to copy this thread's share of a step, which starts at ``depth0``."""
        geometry = self.geometry
        channels, (height, width) = geometry.in_channels // geometry.groups, geometry.input_size
        depth = bind(depth0 + self.k)
        tap, channel = bind(depth // channels), bind(depth % channels + group * channels)
        down = bind(tap // geometry.kernel[1] * geometry.dilation[0])
        across = bind(tap % geometry.kernel[1] * geometry.dilation[1])
        with emit.unroll(self.count) as i:
            row, column = bind(self.top[i] + down), bind(self.left[i] + across)
            on = tirx.all(depth < channels * geometry.taps, row >= 0, row < height, column >= 0, column < width)
            source = (self.base[i] + row * width + column) * geometry.in_channels + channel
            # Nothing is read where the tap is off the image, but the address is taken: of the first element.
            at = tirx.Select(on, source, 0)
            target = product.first_index(stage, self.first + i * self.step, self.k)
            intrinsics.copy_async(product.memory, target, x, at, on, self.width)


def copy_second(product: BlockProduct, thread: Expr, stage: Expr, source: Expr, start: Expr, stride: int) -> None:
    """Begin to copy a step's rows of the second matrix; the first begins at ``start``, the next ``stride`` further."""
    tile = product.tile
    across = tile.columns // 4
    depth, column = bind(thread // across), bind(thread % across * 4)
    step = tile.threads // across
    with emit.unroll(ceil_div(DEPTH, step)) as i:
        row = bind(depth + i * step)
        target = product.second_index(stage, row, column)
        intrinsics.copy_async(product.memory, target, source, start + row * stride + column, T.bool(True), 4)


def write_values(
    values: list[Expr], channel: Expr, channels: int, y: Expr, at: Expr, first_channel: Expr, epilogue: Epilogue
) -> None:
    """Write neighbouring output values from ``at`` on, those of channels that exist."""
    lanes = len(values)
    if channels % lanes == 0:
        with T.If(channel < channels), T.Then():
            done = emit.registers(lanes)
            for v, value in enumerate(values):
                T.buffer_store(done, epilogue.apply(value, first_channel + channel + v, at + v), [v])
            T.buffer_store(y, done[T.ramp(0, 1, lanes)], [T.ramp(at, 1, lanes)])
        return
    for v, value in enumerate(values):
        with T.If(channel + v < channels), T.Then():
            T.buffer_store(y, epilogue.apply(value, first_channel + channel + v, at + v), [at + v])


def add_parts_kernel(
    name: str, parts: int, shape: tuple[int, ...], *, residual: bool, activation: str
) -> tirx.PrimFunc:
    """The kernel (sums (parts, pixels, K), bias (K,)[, residual NHWC], y NHWC): the parts added, and the epilogue."""
    pixels, channels = shape[0] * shape[1] * shape[2], shape[3]
    arguments = [
        ("sums", (parts, pixels, channels), FLOAT32.dtype),
        ("bias", (channels,), FLOAT32.dtype),
        *([("residual", shape, FLOAT32.dtype)] if residual else []),
        ("y", shape, FLOAT32.dtype),
    ]

    def body(sums: Expr, bias: Expr, *rest: Expr) -> None:
        epilogue = Epilogue(bias, rest[0] if residual else None, activation)

        def add(at: Expr) -> None:
            total = emit.Variable(T.float32(0))
            with emit.unroll(parts) as part:
                total.add(sums[part * pixels * channels + at])
            T.buffer_store(rest[-1], epilogue.apply(total.get(), at % channels, at), [at])

        emit.each_element(pixels * channels, add)

    return emit.kernel(name, arguments, body)
