"""1×1 convolutions of pixels that a task holds in memory of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import TileWriter, add_products, start_sums, unrolled
from haste_compiler.codegen.cpu.tiling import RegisterTile
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry


@dataclass(frozen=True)
class Source:
    """Pixels one after the other in memory.

    Attributes:
        buffer: float32.
        start: the element that the first one begins with.
        pitch: elements from one to the next.
        count: how many.
    """

    buffer: Expr
    start: Expr
    pitch: int
    count: Expr


@dataclass(frozen=True)
class Target:
    """Where the results of pixels go: one after the other, all output channels of each.

    Attributes:
        buffer: float32.
        first: the place of the first pixel's, in pixels.
        residual: what is added before the activation, laid out as the buffer; None: nothing.
    """

    buffer: Expr
    first: Expr
    residual: Expr | None = None


class PixelProduct(ABC):
    """A 1×1 convolution of pixels. Equal ones have equal code.

    Attributes:
        geometry: of a row of pixels: input and output channels are what is read of it.
        activation: see ``apply_activation``.
    """

    geometry: ConvGeometry
    activation: str

    @abstractmethod
    def arguments(self) -> list[tuple[str, tuple[Any, ...], str]]:
        """(name, shape, dtype) of its weights."""

    @abstractmethod
    def open(self, weights: Sequence[Expr], most: int) -> OpenProduct:
        """Allocate what a task needs for up to ``most`` pixels at once; ``weights`` are those of ``arguments``."""


class OpenProduct(ABC):
    """A ``PixelProduct`` in a task."""

    @abstractmethod
    def write(self, source: Source, target: Target) -> None:
        """Emit the convolution of some pixels, at least as many as a register tile holds."""


@dataclass(frozen=True)
class FloatProduct(PixelProduct):
    """In float32.

    Attributes:
        tile: its register tile.
    """

    geometry: ConvGeometry
    activation: str
    tile: RegisterTile

    @property
    def tiles(self) -> int:
        """Tiles of output channels."""
        return math.ceil(self.geometry.out_channels / self.tile.channels)

    def arguments(self) -> list[tuple[str, tuple[Any, ...], str]]:
        """See ``PixelProduct``: as ``pack_dense`` returns them."""
        channels = self.tiles * self.tile.channels
        return [("filters", (channels * self.geometry.in_channels,), "float32"), ("bias", (channels,), "float32")]

    def open(self, weights: Sequence[Expr], most: int) -> OpenProduct:
        """See ``PixelProduct``."""
        return _OpenFloat(self, weights[0], weights[1])


@dataclass(frozen=True)
class _OpenFloat(OpenProduct):
    product: FloatProduct
    filters: Expr
    bias: Expr

    def write(self, source: Source, target: Target) -> None:
        """See ``OpenProduct``."""
        product, tile = self.product, self.product.tile
        depth = product.geometry.in_channels
        writer = TileWriter(product.geometry, tile, product.activation, target.buffer, target.residual, (1, 1))
        with T.serial(0, product.tiles) as k_tile, T.serial(0, emit.ceil_div(source.count, tile.columns)) as step:
            column = emit.bind(emit.minimum(step * tile.columns, source.count - tile.columns))
            sums = start_sums(tile, self.bias, k_tile)
            read = emit.bind(source.start + column * source.pitch)
            filters = emit.bind(k_tile * (depth * tile.channels))
            unroll = unrolled(tile, depth, (2, 3))
            offsets = [p * source.pitch for p in range(tile.columns)]
            with T.serial(0, depth // unroll) as round_:
                for u in range(unroll):
                    c = round_ * unroll + u
                    add_products(
                        sums, tile, (self.filters, filters + c * tile.channels), source.buffer, read + c, offsets
                    )
            writer.store(sums, k_tile, 0, 0, emit.bind(target.first + column))
