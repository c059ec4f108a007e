"""Values times -1, 0 and 1 on CPUs without a dot product of bytes: sums of many products fit 16 bits."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit, sums_of_byte_pairs, sums_of_pairs


@dataclass(frozen=True)
class NarrowSums(IntegerUnit):
    """Sums are of 16 bits, two for each of 32, and are added to these after so many steps that they can't overflow."""

    MOST_STEPS: ClassVar[int]
    """Steps after which sums of 16 bits are widened at the latest."""

    WIDENING_CYCLES: ClassVar[float]
    """Of adding a vector's sums of 16 bits to those of 32."""

    @abstractmethod
    def widened(self, sums: Expr) -> Expr:
        """Sums of two neighbours of 16 bits, int32."""


class TernaryBytes(NarrowSums):
    """x86: pairs of unsigned bytes (pmaddubsw), of which each sum is at most 2 · 255: 64 of them fit."""

    GROUP = 4
    DTYPE = "uint8"
    MOST_STEPS = 64
    # Products run two a cycle, additions beside them.
    CYCLES = 0.5
    WIDENING_CYCLES = 1.5

    def offset(self, nonnegative: bool) -> int:
        """See ``IntegerUnit``."""
        return 0 if nonnegative else 128

    def widened(self, sums: Expr) -> Expr:
        """See ``NarrowSums``."""
        return sums_of_pairs(self.lanes, sums, T.broadcast(T.int16(1), 2 * self.lanes))

    def product(self, values: Expr, filters: Expr) -> Expr:
        """See ``IntegerUnit``: of 16 bits."""
        return sums_of_byte_pairs(self.lanes, values, filters)


class TernaryPairs(NarrowSums):
    """ARM without a dot product: signed bytes, whose products are added to sums of 16 bits (smlal): 255 of them fit."""

    GROUP = 2
    DTYPE = "int8"
    MOST_STEPS = 255
    WIDENING_CYCLES = 2.0

    def offset(self, nonnegative: bool) -> int:
        """See ``IntegerUnit``."""
        return -128 if nonnegative else 0

    def values_of(self, buffer: Expr, index: Expr) -> Expr:
        """See ``ProductUnit``."""
        pair = tirx.reinterpret("int16", emit.load(buffer, index, 2))
        return T.bind(tirx.reinterpret(f"int8x{2 * self.lanes}", T.broadcast(pair, self.lanes)))

    def widened(self, sums: Expr) -> Expr:
        """See ``NarrowSums``."""
        name = f"llvm.aarch64.neon.saddlp.v{self.lanes}i32.v{2 * self.lanes}i16"
        return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", name, sums)

    def product(self, values: Expr, filters: Expr) -> Expr:
        """See ``IntegerUnit``: of 16 bits."""
        wide = f"int16x{2 * self.lanes}"
        return T.Cast(wide, values) * T.Cast(wide, filters)
