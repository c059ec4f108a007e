"""3×3 convolution of bfloat16 by Winograd's minimal filtering: transformed inputs and filters are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.winograd import combine
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import INPUT
from haste_compiler.methods.bfloat16.cpu.unit import BFloat16Unit
from haste_compiler.methods.bfloat16.reference.rounding import SPOILED_BITS
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.products import Sums
from haste_compiler.methods.quantized.cpu.rounding import Largest
from haste_compiler.methods.quantized.cpu.winograd_tiles import (
    TileScratch,
    TransformedTiles,
    fused,
    pack_transformed,
    padded_channels,
)
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling


def winograd_arguments(
    geometry: ConvGeometry, batch: Batch, tiling: WinogradTiling, unit: BFloat16Unit, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x first, then what ``pack_winograd`` returns, y last."""
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    channels, outputs = layout.tiles * layout.channels, (batch, *geometry.output_size, geometry.out_channels)
    return [
        ("x", (batch, *geometry.input_size, geometry.in_channels), "float32"),
        ("transformed", (tiling.positions * channels * padded_channels(geometry, unit),), unit.FILTERS.dtype),
        ("filters", (layout.tiles * layout.tile_elements,), unit.FILTERS.dtype),
        ("bias", (channels,), "float32"),
        *([("residual", outputs, "float32")] if residual else []),
        ("y", outputs, "float32"),
    ]


def pack_winograd(
    transformed: NDArray[np.uint16],
    plain: NDArray[np.uint16],
    bias: NDArray[np.float32] | None,
    geometry: ConvGeometry,
    tiling: WinogradTiling,
    unit: BFloat16Unit,
) -> list[NDArray[Any]]:
    """Weights as the kernel takes them: what comes between x and the residual.

    Args:
        transformed: bits of filters, (K, C, m + 2, m + 2).
        plain: bits of the filters as they are, (K, C, 3, 3).
        bias: (K,) or None.
        geometry: the convolution's.
        tiling: how the kernel is cut.
        unit: what it multiplies with.
    """
    layout = filter_layout(geometry, tiling.tile.channels, unit)
    packed = pack_transformed(transformed, layout, np.arange(padded_channels(geometry, unit)))
    return [packed, layout.pack(plain), layout.pack_channels(bias)]


def winograd_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: WinogradTiling,
    unit: BFloat16Unit,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed weights[, residual NHWC], y NHWC)."""
    arguments = winograd_arguments(geometry, batch, tiling, unit, residual=residual)

    def body(*buffers: Expr) -> None:
        named = {label: buffer for (label, _, _), buffer in zip(arguments, buffers, strict=True)}
        with unit.code():
            _Winograd(geometry, batch, tiling, unit, activation, named).write()

    return emit.kernel(name, arguments, body)


class _Winograd(TransformedTiles):
    """A tile is finite where all its transformed values still are as bfloat16."""

    def __init__(
        self,
        geometry: ConvGeometry,
        batch: Batch,
        tiling: WinogradTiling,
        unit: BFloat16Unit,
        activation: str,
        buffers: dict[str, Expr],
    ) -> None:
        super().__init__(geometry, batch, tiling, unit, activation, buffers)
        self.unit = unit

    def allocate(self) -> TileScratch:
        """See ``TransformedTiles``."""
        return TileScratch(**self.common())

    def round_tile(self, t: Expr, scratch: TileScratch) -> None:
        """See ``TransformedTiles``."""
        side, largest = self.side, Largest(self.lanes)
        start = emit.bind(t * self.value_stride)
        with T.serial(0, side) as i:

            def body(channel: Expr, n: int, i: Expr = i) -> None:
                places = [emit.bind(i * side + j) for j in range(side)]
                row = [T.bind(emit.load(scratch.mixed, place * self.mixed_stride + channel, n)) for place in places]
                for place, value in zip(places, combine(INPUT[self.size], row, fused(n)), strict=True):
                    largest.include(value, n)
                    written = emit.bind(start + place * self.padded + channel)
                    emit.store(scratch.values, written, self.unit.rounded(value, n), n)

            emit.sweep(self.channels, self.lanes, body)
            if self.padded > self.channels:
                for j in range(side):
                    emit.store(scratch.values, start + (i * side + j) * self.padded + self.channels, T.uint16(0))
        emit.store(scratch.finite, t, T.Cast("int32", largest.bits() < T.int32(SPOILED_BITS)))

    def store_sums(self, totals: Sums, channel: Expr, column: Expr, position: Expr, scratch: TileScratch) -> None:
        """See ``TransformedTiles``."""
        for p, pixel in enumerate(totals):
            written = self.sums_at(column + p, position)
            for v, register in enumerate(pixel):
                emit.store(scratch.sums, written + v * self.lanes, register.get(), self.lanes)
