"""A convolution in float32, by narrow filters: what is computed where what is multiplied would not be finite.

It is needed where an image holds infinities or NaN. So its code is small, and not fast.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.cpu.filters import FilterLayout


@dataclass(frozen=True)
class Operands:
    """Buffers of a convolution by narrow filters.

    Attributes:
        x: float32, NHWC.
        filters: int8, or the bits of bfloat16 as uint16, see ``FilterLayout``.
        scale: of the filters, float32, see ``FilterLayout.pack_channels``; None: they have none.
        bias: float32, as the scale.
        residual: what is added before the activation, float32 NHWC, or None.
        y: float32, NHWC.
    """

    x: Expr
    filters: Expr
    scale: Expr | None
    bias: Expr
    residual: Expr | None
    y: Expr


@dataclass(frozen=True)
class Rectangle:
    """Outputs of an image; what lies outside the output plane, below or to the right, is left out."""

    image: Expr
    row: Expr
    column: Expr
    rows: Expr = 1
    columns: Expr = 1


def write_plain(
    layout: FilterLayout,
    lanes: int,
    activation: str,
    operands: Operands,
    outputs: Rectangle,
    tiles: tuple[Expr, Expr] | None = None,
    held: Expr | None = None,
) -> None:
    """Emit the computation of a rectangle of outputs.

    Args:
        layout: of the filters.
        lanes: of a float32 vector; divides a tile's channels.
        activation: see ``apply_activation``.
        operands: what is read and written.
        outputs: which pixels.
        tiles: the first tile of output channels, and how many; None: all.
        held: where in x the one pixel begins that a single output of 1×1 filters reads; None: where the geometry says.
    """
    out_h, out_w = layout.geometry.output_size
    first, count = tiles or (0, layout.tiles)
    rows, columns = (
        emit.bind(emit.minimum(size, end - at))
        for size, end, at in ((outputs.rows, out_h, outputs.row), (outputs.columns, out_w, outputs.column))
    )
    per_tile = layout.channels // lanes
    with (
        T.serial(0, emit.bind(count * per_tile)) as vector,
        T.serial(0, rows) as below,
        T.serial(0, columns) as right,
    ):
        tile, first_channel = emit.bind(first + vector // per_tile), emit.bind(vector % per_tile * lanes)
        row, column = emit.bind(outputs.row + below), emit.bind(outputs.column + right)
        sums = _sums(layout, lanes, operands, (tile, first_channel), (outputs.image, row, column), held)
        _store(layout, activation, operands, sums, (tile, first_channel), (outputs.image, row, column))


def _sums(
    layout: FilterLayout,
    lanes: int,
    operands: Operands,
    channel: tuple[Expr, Expr],
    pixel: tuple[Expr, Expr, Expr],
    held: Expr | None,
) -> emit.Register:
    """A vector of sums: of some output channels, from one of a tile on, at a pixel (image, row, column)."""
    geometry, (tile, first) = layout.geometry, channel
    height, width = geometry.input_size
    per_group = geometry.in_channels // geometry.groups
    image, row, column = pixel
    scale = None
    if operands.scale is not None:
        scale = T.bind(emit.load(operands.scale, tile * layout.channels + first, lanes))
    sums = emit.Register(lanes, 0.0)
    with T.serial(0, geometry.kernel[0]) as i, T.serial(0, geometry.kernel[1]) as j:
        at_row = emit.bind(row * geometry.stride[0] + i * geometry.dilation[0] - geometry.padding[0])
        at_column = emit.bind(column * geometry.stride[1] + j * geometry.dilation[1] - geometry.padding[2])
        inside = tirx.all(at_row >= 0, at_row < height, at_column >= 0, at_column < width)
        with T.If(inside), T.Then():
            begin = ((image * height + at_row) * width + at_column) * geometry.in_channels if held is None else held
            read = emit.bind(begin + tile // layout.group_tiles * per_group)
            tap = emit.bind(
                tile * layout.tile_elements
                + i * layout.row_elements
                + (0 if layout.is_fused else j * layout.tap_elements)
                + first * layout.group
            )
            skipped = j * per_group if layout.is_fused else 0
            with T.serial(0, per_group) as c:
                number = emit.bind(skipped + c)
                at = emit.bind(tap + layout.place(number))
                filters = _widened(operands.filters[T.ramp(at, layout.part, lanes) if lanes > 1 else at], lanes)
                sums.add(emit.splat(operands.x[read + c], lanes) * (filters if scale is None else filters * scale))
    return sums


def _widened(filters: Expr, lanes: int) -> Expr:
    """Filters as float32: integers, or bfloat16, which is the upper half of a float32."""
    suffix = f"x{lanes}" if lanes > 1 else ""
    if not str(filters.ty.dtype).startswith("uint16"):
        return T.Cast(f"float32{suffix}", filters)
    bits = T.Cast(f"uint32{suffix}", filters) << emit.splat(T.uint32(16), lanes)
    return tirx.reinterpret(f"float32{suffix}", bits)


def _store(
    layout: FilterLayout,
    activation: str,
    operands: Operands,
    sums: emit.Register,
    channel: tuple[Expr, Expr],
    pixel: tuple[Expr, Expr, Expr],
) -> None:
    """The epilogue of a vector of sums, channel after channel; channels that only fill up a tile are left out."""
    geometry, (tile, first) = layout.geometry, channel
    out_h, out_w = geometry.output_size
    image, row, column = pixel
    per_group = geometry.out_channels // geometry.groups
    in_group = emit.bind(tile % layout.group_tiles * layout.channels + first)
    at = emit.bind(
        ((image * out_h + row) * out_w + column) * geometry.out_channels
        + tile // layout.group_tiles * per_group
        + in_group
    )
    # A place in memory of its own, so that the sums stay in a register while they are added up.
    held = T.alloc_buffer((sums.lanes,), "float32")
    emit.store(held, 0, sums.get(), sums.lanes)
    with T.serial(0, emit.minimum(sums.lanes, per_group - in_group)) as lane:
        value = held[lane] + operands.bias[tile * layout.channels + first + lane]
        if operands.residual is not None:
            value = value + operands.residual[at + lane]
        emit.store(operands.y, at + lane, apply_activation(T.bind(value), activation, 1))
