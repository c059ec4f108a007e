"""1×1 convolutions of 8-bit integers, of pixels that a task holds in memory: they are rounded from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import TileWriter
from haste_compiler.codegen.cpu.kernels.pixels import OpenProduct, PixelProduct, Source, Target
from haste_compiler.codegen.cpu.tiling import RegisterTile
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.filters import FilterLayout, filter_layout
from haste_compiler.methods.quantized.cpu.plain import Operands, Rectangle, write_plain
from haste_compiler.methods.quantized.cpu.products import Place, add_products, registers, scaled_sums, start_sums
from haste_compiler.methods.quantized.cpu.scratch import Line, Scratch
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit


@dataclass(frozen=True)
class IntegerProduct(PixelProduct):
    """In integers of 8 bits, see ``reference.direct``.

    Attributes:
        tile: its register tile.
        unit: what multiplies.
        nonnegative: no input is negative.
    """

    geometry: ConvGeometry
    activation: str
    tile: RegisterTile
    unit: IntegerUnit
    nonnegative: bool

    @property
    def layout(self) -> FilterLayout:
        """Of the filters."""
        return filter_layout(self.geometry, self.tile.channels, self.unit)

    def arguments(self) -> list[tuple[str, tuple[Any, ...], str]]:
        """See ``PixelProduct``: as ``pack_direct`` returns them."""
        layout = self.layout
        channels = layout.tiles * layout.channels
        starts = [("starts", (channels,), "int32")] if self.unit.offset(self.nonnegative) else []
        return [
            ("filters", (layout.tiles * layout.tile_elements,), "int8"),
            *starts,
            ("scale", (channels,), "float32"),
            ("bias", (channels,), "float32"),
        ]

    def open(self, weights: Sequence[Expr], most: int) -> OpenProduct:
        """See ``PixelProduct``."""
        # One cache line more between pixels: strides of a power of two would all fall into one cache set.
        pitch = self.geometry.in_channels + emit.LINE_BYTES // np.dtype(self.unit.DTYPE).itemsize
        scratch = Scratch(self.unit, most, pitch, nonnegative=self.nonnegative)
        named = {label: buffer for (label, _, _), buffer in zip(self.arguments(), weights, strict=True)}
        return _OpenInteger(self, scratch, named)


@dataclass(frozen=True)
class _OpenInteger(OpenProduct):
    product: IntegerProduct
    scratch: Scratch
    weights: dict[str, Expr]

    def write(self, source: Source, target: Target) -> None:
        """See ``OpenProduct``."""
        product, scratch, columns = self.product, self.scratch, self.product.tile.columns
        channels, layout = product.geometry.in_channels, product.layout
        scratch.spoiled.set(T.int32(0))
        with T.serial(0, source.count) as number:
            line = Line(source.buffer, emit.bind(source.start + number * source.pitch), channels)
            scratch.round(number, line)
        writer = TileWriter(product.geometry, product.tile, product.activation, target.buffer, target.residual, (1, 1))
        with T.serial(0, layout.tiles) as k_tile, T.serial(0, emit.ceil_div(source.count, columns)) as step:
            column = emit.bind(emit.minimum(step * columns, source.count - columns))
            self._register_tile(writer, k_tile, column, emit.bind(target.first + column))
        with T.If(scratch.spoiled.get() > 0), T.Then(), T.serial(0, source.count) as number:
            self._repair(source, target, number)

    def _register_tile(self, writer: TileWriter, k_tile: Expr, column: Expr, place: Expr) -> None:
        """Sum and write one register tile, from a pixel on; ``place`` says where its outputs go."""
        product, scratch, layout, tile = self.product, self.scratch, self.product.layout, self.product.tile
        channel = emit.bind(k_tile * tile.channels)
        sums = registers(tile, "int32")
        start_sums(sums, Place(self.weights["starts"], channel) if "starts" in self.weights else None)
        values = Place(scratch.values, emit.bind(column * scratch.pitch))
        filters = Place(self.weights["filters"], emit.bind(k_tile * layout.tile_elements))
        offsets = [p * scratch.pitch for p in range(tile.columns)]
        add_products(sums, product.unit, tile, values, filters, layout.steps, offsets)
        scale, bias = (Place(self.weights[each], channel) for each in ("scale", "bias"))
        scales = [scratch.scales[column + p] for p in range(tile.columns)]
        writer.store(scaled_sums(sums, tile, scale, bias, scales), k_tile, 0, 0, place)

    def _repair(self, source: Source, target: Target, number: Expr) -> None:
        """Compute the outputs of a pixel in float32 if its scale is not finite."""
        product = self.product
        # Every output is an image of its own.
        alone = replace(product, geometry=replace(product.geometry, input_size=(1, 1)))
        operands = Operands(
            source.buffer,
            self.weights["filters"],
            self.weights["scale"],
            self.weights["bias"],
            target.residual,
            target.buffer,
        )
        place = Rectangle(emit.bind(target.first + number), 0, 0)
        held = emit.bind(source.start + number * source.pitch)
        with T.If(self.scratch.is_spoiled(number)), T.Then():
            write_plain(alone.layout, product.tile.lanes, product.activation, operands, place, held=held)
