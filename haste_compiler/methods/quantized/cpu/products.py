"""Sums of products of narrow numbers, in registers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import unrolled
from haste_compiler.codegen.cpu.tiling import RegisterTile
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.cpu.ternary import NarrowSums
from haste_compiler.methods.quantized.cpu.unit import ProductUnit

Sums = list[list[emit.Register]]
"""Of a register tile: a list for each pixel, of its vectors of output channels."""


@dataclass(frozen=True)
class Place:
    """An element of a buffer."""

    buffer: Expr
    index: Expr


def registers(tile: RegisterTile, dtype: str, parts: int = 1) -> Sums:
    """A register for each vector of a tile's sums, of ``parts`` elements for each of them."""
    lanes = tile.lanes * parts
    return [[emit.Register(lanes, dtype=dtype) for _ in range(tile.vectors)] for _ in range(tile.pixels)]


def start_sums(sums: Sums, starts: Place | None) -> None:
    """Set sums to those of the output channels from a place on, or to zero."""
    for v in range(len(sums[0])):
        lanes = sums[0][v].lanes
        zero = T.broadcast(tirx.const(0, sums[0][v].buffer.dtype), lanes)
        start = zero if starts is None else emit.bind(emit.load(starts.buffer, starts.index + v * lanes, lanes))
        for pixel in sums:
            pixel[v].set(start)


def add_products(
    sums: Sums,
    unit: ProductUnit,
    tile: RegisterTile,
    source: Place,
    filters: Place,
    steps: int,
    offsets: Sequence[Expr],
    before: Callable[[Expr, int], None] | None = None,
) -> None:
    """Add the products of neighbouring values of each pixel with their filters.

    Args:
        sums: see ``registers``.
        unit: what multiplies.
        tile: the register tile.
        source: the values of a pixel at offset 0, of the unit's type.
        filters: [steps][tile channels][group].
        steps: groups of values.
        offsets: of each pixel's values from ``source``.
        before: called with the first of some steps and their number, to emit what else is done there.
    """

    def add(totals: Sums, start: Expr, count: int) -> None:
        unroll = unrolled(tile, count, (2, 3))
        with T.serial(0, count // unroll) as round_:
            first = emit.bind(start + round_ * unroll)
            if before is not None:
                before(first, unroll)
            for u in range(unroll):
                step = first + u
                at = filters.index + step * (tile.channels * unit.GROUP)
                vectors = [
                    unit.filters_of(filters.buffer, at + v * (tile.lanes * unit.GROUP)) for v in range(tile.vectors)
                ]
                for pixel, offset in zip(totals, offsets, strict=True):
                    values = unit.values_of(source.buffer, source.index + step * unit.GROUP + offset)
                    for total, vector in zip(pixel, vectors, strict=True):
                        unit.add(total, values, vector)

    if not isinstance(unit, NarrowSums):
        add(sums, 0, steps)
        return

    def add_narrowly(start: Expr, count: int) -> None:
        partial = registers(tile, "int16", 2)
        start_sums(partial, None)
        add(partial, start, count)
        for pixel, narrow in zip(sums, partial, strict=True):
            for total, part in zip(pixel, narrow, strict=True):
                total.add(unit.widened(part.get()))

    length = math.ceil(steps / math.ceil(steps / unit.MOST_STEPS))
    with T.serial(0, steps // length) as block:
        add_narrowly(emit.bind(block * length), length)
    if rest := steps % length:
        add_narrowly(steps - rest, rest)


def scaled_sums(sums: Sums, tile: RegisterTile, scale: Place, bias: Place, scales: Sequence[Expr]) -> Sums:
    """Sums of integers as float32, with the bias.

    Args:
        sums: int32, see ``registers``.
        tile: the register tile.
        scale: of the filters, those of the tile's output channels.
        bias: of the same channels.
        scales: of each pixel's values.
    """
    lanes, kind = tile.lanes, f"float32x{tile.lanes}"
    at = [v * lanes for v in range(tile.vectors)]
    added = [T.bind(emit.load(bias.buffer, bias.index + v, lanes)) for v in at]
    outputs = registers(tile, "float32")
    for wholes, pixel, factor in zip(sums, outputs, scales, strict=True):
        factors = [T.bind(emit.load(scale.buffer, scale.index + v, lanes) * emit.splat(factor, lanes)) for v in at]
        for v in range(tile.vectors):
            pixel[v].set(T.Cast(kind, wholes[v].get()) * factors[v] + added[v])
    return outputs
