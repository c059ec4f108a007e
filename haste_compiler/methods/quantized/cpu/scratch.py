"""What a task rounds to small integers of what it reads: lines of values, each by a scale of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.cpu.rounding import Largest, is_finite, rounded, scaling
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit
from haste_compiler.methods.quantized.reference.rounding import LEAST, most

_UNROLL = 4
"""Vectors that one step of a loop over a line reads."""


@dataclass(frozen=True)
class Line:
    """Neighbouring values in memory: the buffer, where they begin in it, and how many."""

    buffer: Expr
    start: Expr
    elements: int


class Scratch:
    """Lines of integers in memory of a task, with the scale of each.

    Args:
        unit: what multiplies them.
        lines: how many.
        pitch: elements from one line to the next.
        nonnegative: no value is negative.
    """

    def __init__(self, unit: IntegerUnit, lines: int, pitch: int, *, nonnegative: bool) -> None:
        self.unit, self.pitch, self.limit = unit, pitch, most(unit.bits, nonnegative=nonnegative)
        self.offset = unit.offset(nonnegative)
        # Past the last value of a line a group of values may be read, times filters that are zero.
        self.values = T.alloc_buffer((lines * pitch + unit.GROUP,), unit.DTYPE)
        self.scales = T.alloc_buffer((lines,), "float32")
        self.spoiled = emit.Register(1, T.int32(0), "int32")

    def round(self, line: Expr, source: Line, skipped: int = 0) -> None:
        """Round values to the integers of a line, from its element ``skipped`` on, and note their scale."""
        largest = Largest(self.unit.lanes)

        def look(i: Expr, n: int) -> None:
            largest.include(emit.load(source.buffer, source.start + i, n), n)

        emit.sweep(source.elements, self.unit.lanes, look, _UNROLL)
        largest_bits = largest.bits()
        factor, scale = scaling(largest_bits, self.limit)
        finite = T.bind(is_finite(largest_bits))
        emit.store(self.scales, line, tirx.Select(finite, scale, T.float32("inf")))
        self.spoiled.set(tirx.Select(finite, self.spoiled.get(), T.int32(1)))
        written = emit.bind(line * self.pitch + skipped)

        def write(i: Expr, n: int) -> None:
            values = emit.load(source.buffer, source.start + i, n)
            emit.store(self.values, written + i, rounded(values, factor, self.offset, n, self.unit.DTYPE), n)

        emit.sweep(source.elements, 2 * self.unit.lanes, write, _UNROLL // 2)

    def zero(self, line: Expr, elements: int, skipped: int = 0) -> None:
        """Set integers of a line to zero, from its element ``skipped`` on."""
        start, zero = emit.bind(line * self.pitch + skipped), T.Cast(self.unit.DTYPE, T.int32(self.offset))
        emit.sweep(
            elements, 2 * self.unit.lanes, lambda i, n: emit.store(self.values, start + i, emit.splat(zero, n), n)
        )

    def zero_line(self, line: Expr, elements: int) -> None:
        """Make a line of zeros, with their scale."""
        self.zero(line, elements)
        emit.store(self.scales, line, T.float32(LEAST / self.limit))

    def is_spoiled(self, line: Expr) -> Expr:
        """Whether a line's scale is not finite."""
        return self.scales[line] > T.float32(emit.LARGEST)
