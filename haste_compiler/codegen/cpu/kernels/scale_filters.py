"""Filters of a 1×1 convolution times a factor for each of its input channels, as they are packed."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.tiling import RegisterTile
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def scale_filters_kernel(name: str, tiles: int, channels: int, tile: RegisterTile) -> tirx.PrimFunc:
    """The kernel (filters, factors, y): [tiles][channels][tile channels] times (channels,)."""
    elements = tiles * channels * tile.channels

    def body(filters: Expr, factors: Expr, y: Expr) -> None:
        with T.parallel(0, tiles) as k_tile, T.serial(0, channels) as channel:
            start = emit.bind((k_tile * channels + channel) * tile.channels)
            factor = T.bind(factors[channel])

            def scale(i: Expr, n: int) -> None:
                emit.store(y, start + i, emit.load(filters, start + i, n) * emit.splat(factor, n), n)

            emit.sweep(tile.channels, tile.lanes, scale)

    arguments = [("filters", (elements,)), ("factors", (channels,)), ("y", (elements,))]
    return emit.kernel(name, [(label, shape, FLOAT32.dtype) for label, shape in arguments], body)
