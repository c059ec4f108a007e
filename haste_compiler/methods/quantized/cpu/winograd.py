"""3×3 convolution of 8-bit integers by Winograd's minimal filtering: a scale for each tile and position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.winograd import combine
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.products import Place, Sums
from haste_compiler.methods.quantized.cpu.rounding import Largest, all_bits, is_finite, rounded, rounded_groups, scaling
from haste_compiler.methods.quantized.cpu.unit import Bytes, IntegerUnit
from haste_compiler.methods.quantized.cpu.winograd_tiles import (
    TileScratch,
    TransformedTiles,
    fused,
    pack_transformed,
    padded_channels,
)
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling
from haste_compiler.methods.quantized.reference.rounding import most
from haste_compiler.methods.quantized.weights import check_sums


def winograd_arguments(
    geometry: ConvGeometry, batch: Batch, tiling: WinogradTiling, unit: IntegerUnit, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x first, then what ``pack_winograd`` returns, y last."""
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    outputs = (batch, *geometry.output_size, geometry.out_channels)
    channels = layout.tiles * tiling.tile.channels
    sums = tiling.positions * channels
    return [
        ("x", (batch, *geometry.input_size, geometry.in_channels), "float32"),
        ("transformed", (sums * padded_channels(geometry, unit),), "int8"),
        ("transformed_scale", (sums,), "float32"),
        *([("starts", (sums,), "int32")] if unit.offset(False) else []),
        ("filters", (layout.tiles * layout.tile_elements,), "int8"),
        ("scale", (channels,), "float32"),
        ("bias", (channels,), "float32"),
        *([("residual", outputs, "float32")] if residual else []),
        ("y", outputs, "float32"),
    ]


def pack_winograd(
    transformed: tuple[NDArray[np.int8], NDArray[np.float32]],
    plain: tuple[NDArray[np.int8], NDArray[np.float32]],
    bias: NDArray[np.float32] | None,
    geometry: ConvGeometry,
    tiling: WinogradTiling,
    unit: IntegerUnit,
) -> list[NDArray[Any]]:
    """Weights as the kernel takes them: what comes between x and the residual.

    Args:
        transformed: filters, int8 (K, C, m + 2, m + 2), and their scales, (K, m + 2, m + 2).
        plain: filters as they are, int8 (K, C, 3, 3), and their scales, (K,).
        bias: (K,) or None.
        geometry: the convolution's.
        tiling: how the kernel is cut.
        unit: what it multiplies with.
    """
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    filters, scale = transformed
    if isinstance(unit, Bytes):
        check_sums(torch.from_numpy(filters).movedim(1, -1))
    packed = pack_transformed(filters, layout, _channel_order(geometry.in_channels, unit))

    def by_position(values: NDArray[Any]) -> NDArray[Any]:
        split = layout.split(values.reshape(geometry.out_channels, tiling.positions))
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(-1)

    starts = []
    if offset := unit.offset(False):
        starts.append(by_position(filters.sum(1, dtype=np.int32) * np.int32(-offset)))
    channels = [layout.pack_channels(values) for values in (plain[1], bias)]
    return [packed, by_position(scale), *starts, layout.pack(plain[0]), *channels]


def winograd_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: WinogradTiling,
    unit: IntegerUnit,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed weights[, residual NHWC], y NHWC)."""
    arguments = winograd_arguments(geometry, batch, tiling, unit, residual=residual)

    def body(*buffers: Expr) -> None:
        named = {label: buffer for (label, _, _), buffer in zip(arguments, buffers, strict=True)}
        _Winograd(geometry, batch, tiling, unit, activation, named).write()

    return emit.kernel(name, arguments, body)


def _channel_order(channels: int, unit: IntegerUnit) -> NDArray[np.int64]:
    """The channel that each integer in memory is of.

    A group holds one lane of several vectors: then rounded vectors are put together without moving values from lane to
    lane. Sums don't depend on the order, but where they have to fit 16 bits: then it is the channels' own.
    """
    if unit.DEPTH > 1:
        return np.arange(math.ceil(channels / unit.GROUP) * unit.GROUP)
    order = []
    for start, lanes in emit.chunks(channels // unit.GROUP, unit.lanes):
        block = np.arange(lanes * unit.GROUP).reshape(unit.GROUP, lanes)
        order.append(start * unit.GROUP + block.T.reshape(-1))
    rest = np.arange(channels // unit.GROUP * unit.GROUP, math.ceil(channels / unit.GROUP) * unit.GROUP)
    return np.concatenate([*order, rest])


@dataclass(frozen=True)
class _Scratch(TileScratch):
    """Memory of a task; for the channels' order in ``values`` see ``_channel_order``.

    Attributes:
        largest: [positions][lanes]: of the window's absolute values, as ``Largest`` has them.
        factors: [positions]: what values are multiplied by before they are rounded.
        scales: [tiles][positions]: of the values.
    """

    largest: Expr
    factors: Expr
    scales: Expr


class _Winograd(TransformedTiles):
    """Rounds by a scale for each tile and position; a tile is finite where all its scales are."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: WinogradTiling,
        unit: IntegerUnit,
        activation: str,
        buffers: dict[str, Expr],
    ) -> None:
        super().__init__(geometry, batch, tiling, unit, activation, buffers)
        self.unit, self.offset, self.limit = unit, unit.offset(False), most(unit.bits, nonnegative=False)

    def allocate(self) -> _Scratch:
        """See ``TransformedTiles``."""
        tiles, positions = self.tiling.tiles, self.tiling.positions
        return _Scratch(
            **self.common(),
            largest=T.alloc_buffer((positions * self.lanes,), "int32"),
            factors=T.alloc_buffer((positions,), "float32"),
            scales=T.alloc_buffer((tiles * positions,), "float32"),
        )

    def starts(self, channel: Expr) -> Place | None:
        """See ``TransformedTiles``."""
        return Place(self.buffers["starts"], channel) if self.offset else None

    def round_tile(self, t: Expr, scratch: _Scratch) -> None:
        """See ``TransformedTiles``."""
        side, positions, lanes = self.side, self.tiling.positions, self.lanes
        with T.serial(0, side) as i:
            self._mix_row(i, scratch.mixed, scratch.largest)
        worst = emit.Register(lanes, T.broadcast(T.int32(0), lanes), "int32")
        for start, n in emit.chunks(positions, lanes):
            each = [T.bind(emit.load(scratch.largest, (start + p) * lanes, lanes)) for p in range(n)]
            bits = all_bits(each, lanes)
            emit.store(worst.buffer, 0, T.max(emit.load(worst.buffer, 0, n), bits), n)
            factor, scale = scaling(bits, self.limit, n)
            emit.store(scratch.factors, start, factor, n)
            emit.store(scratch.scales, t * positions + start, scale, n)
        emit.store(scratch.finite, t, T.Cast("int32", is_finite(worst.fold(T.max))))
        with T.serial(0, positions) as position:
            written = emit.bind(t * self.value_stride + position * self.padded)
            self._round_position(position * self.mixed_stride, T.bind(scratch.factors[position]), written, scratch)

    def _mix_row(self, i: Expr, mixed: Expr, largest: Expr) -> None:
        """A row times B, in place, and the largest value of each position in every lane."""
        side, lanes = self.side, self.lanes
        found = [Largest(lanes) for _ in range(side)]

        def body(channel: Expr, n: int) -> None:
            at = [emit.bind((i * side + j) * self.mixed_stride + channel) for j in range(side)]
            results = combine(INPUT[self.size], [T.bind(emit.load(mixed, each, n)) for each in at], fused(n))
            for each, result, index in zip(found, results, at, strict=True):
                each.include(result, n)
                emit.store(mixed, index, result, n)

        emit.sweep(self.channels, lanes, body)
        for j, each in enumerate(found):
            emit.store(largest, (i * side + j) * lanes, each.lanes(), lanes)

    def _round_position(self, read: Expr, factor: Expr, written: Expr, scratch: _Scratch) -> None:
        """Round a tile's channels at one position, from ``mixed[read]`` on."""
        group, dtype = self.unit.GROUP, self.unit.DTYPE
        if self.unit.DEPTH > 1:
            self._round_in_order(read, factor, written, scratch)
            return

        def write(start: Expr, vectors: Sequence[Expr], n: int) -> None:
            integers = rounded_groups(vectors, factor, self.offset, n, dtype)
            emit.store(scratch.values, written + start * group, integers, n * group)

        def body(start: Expr, n: int) -> None:
            write(start, [emit.load(scratch.mixed, read + start * group + g * n, n) for g in range(group)], n)

        whole = self.channels // group
        emit.sweep(whole, self.lanes, body)
        if rest := self.channels % group:
            some = [scratch.mixed[read + whole * group + g] for g in range(rest)]
            write(whole, [*some, *[T.float32(0)] * (group - rest)], 1)

    def _round_in_order(self, read: Expr, factor: Expr, written: Expr, scratch: _Scratch) -> None:
        """``_round_position`` where channels keep their order; what fills up the last group is left as it is."""

        def body(start: Expr, n: int) -> None:
            values = emit.load(scratch.mixed, read + start, n)
            integers = rounded(values, factor, self.offset, n, self.unit.DTYPE)
            emit.store(scratch.values, written + start, integers, n)

        emit.sweep(self.channels, 4 * self.lanes, body)

    def store_sums(self, totals: Sums, channel: Expr, column: Expr, position: Expr, scratch: _Scratch) -> None:
        """See ``TransformedTiles``: times their scales."""
        lanes, scales = self.lanes, self.buffers["transformed_scale"]
        factors = [T.bind(emit.load(scales, channel + v * lanes, lanes)) for v in range(self.tile.vectors)]
        for p, pixel in enumerate(totals):
            scale = T.bind(scratch.scales[(column + p) * self.tiling.positions + position])
            written = self.sums_at(column + p, position)
            for v, register in enumerate(pixel):
                value = T.Cast(f"float32x{lanes}", register.get()) * (emit.splat(scale, lanes) * factors[v])
                emit.store(scratch.sums, written + v * lanes, value, lanes)
