"""3×3 convolution by Winograd's minimal filtering (``codegen.winograd``) on a card, in float32.

Three launches: the tiles of all images are transformed; one matrix product for each of the (m + 2)² positions, which
is a 1×1 convolution of as many conv groups (``conv2d.py``); the sums are transformed back, with bias, residual and
activation.

The transforms add and subtract neighbours, so one infinite or NaN pixel would spoil its whole tile. Where a tile's
outputs aren't finite they are computed again as the convolution is written, and say what PyTorch says.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.cuda.kernels.conv2d import Epilogue, choose_tiling
from haste_compiler.codegen.cuda.tiling import GemmTiling
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST, Expr, bind
from haste_compiler.codegen.winograd import combine
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT, OUTPUT, SIZES, takes_winograd, transform_filters

_BYTE_COST = 6.0
"""Products that one multiprocessor makes in the time that a byte takes it from or to memory."""

_LAUNCH_COST = 5e5
"""Products that one multiprocessor makes in the time of a launch."""

_MOST_BYTES = 1 << 30
"""Of the transformed images, and of the sums. Larger ones take a card's memory from what else is on it."""


@dataclass(frozen=True)
class CardWinograd:
    """Winograd's algorithm for one convolution: ``batch`` images, tiles of ``size`` × ``size`` outputs."""

    geometry: ConvGeometry
    batch: int
    size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across an image."""
        height, width = self.geometry.output_size
        return ceil_div(height, self.size), ceil_div(width, self.size)

    @property
    def tiles(self) -> int:
        """Of all images."""
        return self.batch * self.grid[0] * self.grid[1]

    @property
    def positions(self) -> int:
        """Products a tile and channel."""
        return (self.size + 2) ** 2

    @property
    def products(self) -> ConvGeometry:
        """The products as a convolution of 1×1 images, one a tile, with a conv group for each position."""
        geometry, count = self.geometry, self.positions
        return ConvGeometry(
            count * geometry.in_channels, count * geometry.out_channels, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), count,
            (1, 1), (1, 1),
        )  # fmt: skip

    def tiling(self, processors: int) -> tuple[float, GemmTiling]:
        """Modelled time and tiling of the products."""
        return choose_tiling(self.products, self.tiles, processors, "fp32", most_splits=1)

    @property
    def bytes(self) -> int:
        """Of the larger one of the transformed images and the sums."""
        return FLOAT32.bytes * self.tiles * self.positions * max(self.geometry.in_channels, self.geometry.out_channels)

    @property
    def traffic(self) -> int:
        """Bytes that the transforms and the products read and write besides what any convolution does."""
        channels, filters = self.geometry.in_channels, self.geometry.out_channels
        transformed = 2 * self.tiles * self.positions * (channels + filters)
        return FLOAT32.bytes * (transformed + (self.positions - self.geometry.taps) * channels * filters)


def winograd_cost(winograd: CardWinograd, processors: int) -> float:
    """Modelled time, in the unit of ``choose_gemm``."""
    product, _ = winograd.tiling(processors)
    return product + _BYTE_COST * winograd.traffic / processors + 2 * _LAUNCH_COST


def choose_winograd(
    geometry: ConvGeometry, batch: int, largest: int, processors: int, direct: float
) -> CardWinograd | None:
    """The fastest way by Winograd's algorithm, with tiles up to ``largest``; None where ``direct`` is no slower.

    Args:
        geometry, batch: the convolution.
        largest: side of the largest tiles that are allowed, 0: none.
        processors: multiprocessors of the card.
        direct: modelled time of the convolution as it is written.
    """
    costs = {each: winograd_cost(each, processors) for each in winograd_choices(geometry, batch, largest)}
    best = min(costs, key=costs.__getitem__, default=None)
    return best if best is not None and costs[best] < direct else None


def winograd_choices(geometry: ConvGeometry, batch: int, largest: int) -> list[CardWinograd]:
    """The ways that there are, with tiles up to ``largest``."""
    found = [
        CardWinograd(geometry, batch, size) for size in SIZES if size <= largest and takes_winograd(geometry, size)
    ]
    # Channels are copied in fours.
    return [each for each in found if geometry.in_channels % 4 == 0 and each.bytes <= _MOST_BYTES]


def winograd_filters(weight: NDArray[np.float32], winograd: CardWinograd) -> NDArray[np.float32]:
    """(K, C, 3, 3) to the filters (positions · K, C, 1, 1) of ``winograd.products``."""
    transformed = transform_filters(weight, winograd.size).reshape(*weight.shape[:2], -1)
    return np.ascontiguousarray(transformed.transpose(2, 0, 1).reshape(-1, weight.shape[1], 1, 1))


def pack_plain_filters(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, C, 3, 3) to [taps][C][K], for tiles that are computed as the convolution is written."""
    return np.ascontiguousarray(weight.reshape(*weight.shape[:2], -1).transpose(2, 1, 0))


def winograd_input_kernel(name: str, winograd: CardWinograd) -> tirx.PrimFunc:
    """The kernel (x NHWC, transformed (tiles, 1, 1, positions · C)): Bᵀ X B, a thread for each tile and channel."""
    geometry, side = winograd.geometry, winograd.size + 2
    (height, width), channels = geometry.input_size, geometry.in_channels
    arguments = [
        ("x", (winograd.batch, height, width, channels), FLOAT32.dtype),
        ("transformed", (winograd.tiles, 1, 1, winograd.positions * channels), FLOAT32.dtype),
    ]

    def body(x: Expr, transformed: Expr) -> None:
        def transform(at: Expr) -> None:
            tile, c = bind(at // channels), bind(at % channels)
            image, row, column = _corner(winograd, tile)
            top, left = bind(row - geometry.padding[0]), bind(column - geometry.padding[2])

            def value(i: int, j: int) -> Expr:
                y_in, x_in = bind(top + i), bind(left + j)
                on = tirx.all(y_in >= 0, y_in < height, x_in >= 0, x_in < width)
                return emit.load_if(on, x, ((image * height + y_in) * width + x_in) * channels + c)

            matrix = INPUT[winograd.size]
            columns = [combine(matrix, [value(i, j) for i in range(side)]) for j in range(side)]
            first = bind(tile * winograd.positions * channels + c)
            for i in range(side):
                for j, mixed in enumerate(combine(matrix, [values[i] for values in columns])):
                    T.buffer_store(transformed, mixed, [first + (i * side + j) * channels])

        emit.each_element(winograd.tiles * channels, transform)

    return emit.kernel(name, arguments, body)


def winograd_output_kernel(
    name: str, winograd: CardWinograd, *, residual: bool = False, activation: str = "none"
) -> tirx.PrimFunc:
    """The kernel (sums (1, tiles, positions · K), x NHWC, plain filters, bias (K,)[, residual NHWC], y NHWC).

    Aᵀ M A, a thread for each tile and output channel.
    """
    geometry, side, size = winograd.geometry, winograd.size + 2, winograd.size
    (height, width), (out_h, out_w) = geometry.input_size, geometry.output_size
    channels, filters = geometry.in_channels, geometry.out_channels
    shape = (winograd.batch, out_h, out_w, filters)
    arguments = [
        ("sums", (1, winograd.tiles, winograd.positions * filters), FLOAT32.dtype),
        ("x", (winograd.batch, height, width, channels), FLOAT32.dtype),
        ("filters", (geometry.taps, channels, filters), FLOAT32.dtype),
        ("bias", (filters,), FLOAT32.dtype),
        *([("residual", shape, FLOAT32.dtype)] if residual else []),
        ("y", shape, FLOAT32.dtype),
    ]

    def body(sums: Expr, x: Expr, plain: Expr, bias: Expr, *rest: Expr) -> None:
        epilogue = Epilogue(bias, rest[0] if residual else None, activation)

        def transform(at: Expr) -> None:
            tile, k = bind(at // filters), bind(at % filters)
            image, row, column = _corner(winograd, tile)
            first, matrix = bind(tile * winograd.positions * filters + k), OUTPUT[size]
            columns = [
                combine(matrix, [T.bind(sums[first + (i * side + j) * filters]) for i in range(side)])
                for j in range(side)
            ]
            outputs = [combine(matrix, [values[i] for values in columns]) for i in range(size)]
            total = emit.Variable(T.float32(0))
            for value in itertools.chain(*outputs):
                total.add(value)

            def write(i: Expr, j: Expr, value: Expr) -> None:
                y_out, x_out = bind(row + i), bind(column + j)
                with T.If(tirx.all(y_out < out_h, x_out < out_w)), T.Then():
                    place = bind(((image * out_h + y_out) * out_w + x_out) * filters + k)
                    T.buffer_store(rest[-1], epilogue.apply(value, k, place), [place])

            # A comparison that NaN fails.
            with T.If(tirx.abs(total.get()) <= T.float32(LARGEST)):
                with T.Then():
                    for i, j in itertools.product(range(size), repeat=2):
                        write(i, j, outputs[i][j])
                with T.Else(), T.serial(0, size) as i, T.serial(0, size) as j:
                    write(i, j, _as_written(winograd, x, plain, image, bind(row + i), bind(column + j), k))

        emit.each_element(winograd.tiles * filters, transform)

    return emit.kernel(name, arguments, body)


def _as_written(winograd: CardWinograd, x: Expr, filters: Expr, image: Expr, row: Expr, column: Expr, k: Expr) -> Expr:
    """The sum of one output, tap by tap."""
    geometry = winograd.geometry
    (height, width), channels = geometry.input_size, geometry.in_channels
    total = emit.Variable(T.float32(0))
    with T.serial(0, 3) as i, T.serial(0, 3) as j:
        y_in, x_in = bind(row - geometry.padding[0] + i), bind(column - geometry.padding[2] + j)
        with T.If(tirx.all(y_in >= 0, y_in < height, x_in >= 0, x_in < width)), T.Then(), T.serial(0, channels) as c:
            value = x[((image * height + y_in) * width + x_in) * channels + c]
            total.add(value * filters[((i * 3 + j) * channels + c) * geometry.out_channels + k])
    return total.get()


def _corner(winograd: CardWinograd, tile: Expr) -> tuple[Expr, Expr, Expr]:
    """A tile's image, and its first output row and column."""
    down, across = winograd.grid
    place = bind(tile % (down * across))
    return bind(tile // (down * across)), bind(place // across * winograd.size), bind(place % across * winograd.size)
