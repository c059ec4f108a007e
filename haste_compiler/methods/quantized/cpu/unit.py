"""What a CPU multiplies small integers with: its instructions, and how values have to lie in memory for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import Element
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.bits import BITS, NARROW_BITS


@dataclass(frozen=True)
class ProductUnit(ABC):
    """Multiplies ``group`` neighbouring values of one pixel by as many filter values of each lane, and sums them.

    Attributes:
        lanes: sums of one vector register.
        registers: architectural vector registers.
    """

    lanes: int
    registers: int

    FILTERS: ClassVar[Element]
    """What filters are made of, and what their products are summed in."""

    GROUP = 1
    """Neighbouring values, along the channels, of one product."""

    DTYPE = "int16"
    """Of a pixel's values in memory."""

    TEMPORARIES = 1
    """Registers that one product takes besides sums, filters and the pixel's values."""

    ACCUMULATES = False
    """Whether one instruction multiplies and adds: else filters are widened, and products added, by others."""

    CYCLES = 1.0
    """Of one product of a vector, with its addition, at the unit's peak."""

    DEPTH = 1
    """Products of the instruction that one product is made of: its group is cut into so many."""

    ROUNDING_CYCLES: ClassVar[float]
    """Of rounding a vector of inputs."""

    LINE_CYCLES: ClassVar[float]
    """Of rounding a row or a pixel, however long it is."""

    ROW_CYCLES: ClassVar[float]
    """Of what follows the sums of a row of taps, a vector."""

    INPUT_CYCLES: ClassVar[Mapping[int, float]]
    """Of the transform and the rounding of one of Winograd's tiles, for a vector of channels, by the tile's size; much
    of it is waiting for the image."""

    TILE_CYCLES: ClassVar[Mapping[int, float]]
    """Of the same, however many channels there are."""

    @abstractmethod
    def add(self, total: emit.Register, values: Any, filters: Any) -> None:
        """Add the products of some values and filters to a register of sums.

        Args:
            total: ``lanes`` sums.
            values: ``GROUP`` values of a pixel, as ``values_of`` reads them.
            filters: ``lanes · GROUP`` of them, by lane.
        """

    def values_of(self, buffer: Expr, index: Expr) -> Any:
        """``GROUP`` values from ``index`` on, in every lane."""
        bits = {1: "int16", 2: "int32", 4: "int32"}[self.GROUP]
        read = emit.load(buffer, index, self.GROUP)
        return T.bind(T.broadcast(read if self.GROUP == 1 else tirx.reinterpret(bits, read), self.lanes))

    def filters_of(self, buffer: Expr, index: Expr) -> Any:
        """The filters of one vector of output channels, from element ``index`` on."""
        return T.bind(emit.load(buffer, index, self.lanes * self.GROUP))


@dataclass(frozen=True)
class IntegerUnit(ProductUnit):
    """A unit for 8-bit integers, whose sums are int32.

    Attributes:
        bits: that a pixel's values have.
    """

    bits: int = BITS

    FILTERS = Element("int8", 1, "int32")
    # Every vector is read twice, for its largest value and to be rounded.
    ROUNDING_CYCLES = 2.5
    # Of finding a scale.
    LINE_CYCLES = 15.0
    # Sums become float32.
    ROW_CYCLES = 1.5
    INPUT_CYCLES: ClassVar[Mapping[int, float]] = {2: 90.0, 4: 230.0}
    TILE_CYCLES: ClassVar[Mapping[int, float]] = {2: 150.0, 4: 300.0}

    def offset(self, nonnegative: bool) -> int:
        """What is added to a pixel's values in memory: 0 where they fit as they are.

        Args:
            nonnegative: they are 0 to 255 instead of -127 to 127, or of fewer ``bits`` as many fewer.
        """
        return 0

    @abstractmethod
    def product(self, values: Any, filters: Any) -> Expr:
        """The products' sums, int32, ``lanes`` of them, that are to be added to a register by ``add``.

        Args:
            values: ``GROUP`` values of a pixel, as ``values_of`` reads them.
            filters: int8, ``lanes · GROUP`` of them, by lane.
        """

    def add(self, total: emit.Register, values: Any, filters: Any) -> None:
        """See ``ProductUnit``."""
        total.add(self.product(values, filters))


class Multiply(IntegerUnit):
    """Any vector unit: one value at a time, 16-bit operands, 32-bit products."""

    def product(self, values: Expr, filters: Expr) -> Expr:
        """See ``IntegerUnit``."""
        wide = f"int32x{self.lanes}"
        return T.Cast(wide, values) * T.Cast(wide, filters)


class Pairs(IntegerUnit):
    """x86 without a dot product of bytes: pairs of 16-bit values (pmaddwd). It is exact; pmaddubsw saturates."""

    GROUP = 2
    # Products and additions together run three a cycle, measured on Zen 3.
    CYCLES = 2 / 3

    def product(self, values: Expr, filters: Expr) -> Expr:
        """See ``IntegerUnit``."""
        halves = f"int16x{2 * self.lanes}"
        return sums_of_pairs(self.lanes, tirx.reinterpret(halves, values), T.Cast(halves, filters))


@dataclass(frozen=True)
class Bytes(IntegerUnit):
    """x86 without a dot product of bytes: values of 7 bits times 8-bit filters, in 16 bits (pmaddubsw).

    Two products are added before they are widened. Neither the sum of the two of a product, nor of all four, may leave
    16 bits: filters are rounded so that it can't (``weights.quantize_for_narrow``).
    """

    GROUP = 8
    DTYPE = "uint8"
    DEPTH = 2
    bits: int = NARROW_BITS
    TEMPORARIES = 3
    # Three products run two a cycle, additions beside them: of pmaddubsw two, and one of pmaddwd.
    CYCLES = 1.5

    def offset(self, nonnegative: bool) -> int:
        """See ``IntegerUnit``."""
        return 0 if nonnegative else 64

    def values_of(self, buffer: Expr, index: Expr) -> Sequence[Expr]:
        """See ``IntegerUnit``: half of them after the other."""
        halves = (emit.load(buffer, index + half * 4, 4) for half in range(self.DEPTH))
        return [T.bind(T.broadcast(tirx.reinterpret("int32", half), self.lanes)) for half in halves]

    def filters_of(self, buffer: Expr, index: Expr) -> Sequence[Expr]:
        """See ``IntegerUnit``: half of them after the other."""
        elements = 4 * self.lanes
        return [T.bind(emit.load(buffer, index + half * elements, elements)) for half in range(self.DEPTH)]

    def product(self, values: Sequence[Expr], filters: Sequence[Expr]) -> Expr:
        """See ``IntegerUnit``."""
        first, second = (self._narrow(*pair) for pair in zip(values, filters, strict=True))
        return sums_of_pairs(self.lanes, first + second, T.broadcast(T.int16(1), 2 * self.lanes))

    def _narrow(self, values: Expr, filters: Expr) -> Expr:
        return sums_of_byte_pairs(self.lanes, values, filters)


class UnsignedDot(IntegerUnit):
    """x86 with VNNI: four unsigned bytes of a pixel times four signed ones (vpdpbusd)."""

    GROUP = 4
    DTYPE = "uint8"
    TEMPORARIES = 0
    ACCUMULATES = True

    def offset(self, nonnegative: bool) -> int:
        """See ``IntegerUnit``."""
        return 0 if nonnegative else 128

    def product(self, values: Expr, filters: Expr) -> Expr:
        """See ``IntegerUnit``."""
        return self._dot(T.broadcast(T.int32(0), self.lanes), values, filters)

    def add(self, total: emit.Register, values: Any, filters: Any) -> None:
        """See ``ProductUnit``."""
        total.set(self._dot(total.get(), values, filters))

    def _dot(self, total: Expr, values: Expr, filters: Expr) -> Expr:
        # LLVM 22 declares it for bytes; TVM's own intrinsic, for words, is out of date.
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        bytes_of = tirx.reinterpret(f"int8x{4 * self.lanes}", values)
        return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", name, total, bytes_of, filters)


class SignedDot(IntegerUnit):
    """ARM with a dot product: four signed bytes times four (sdot)."""

    GROUP = 4
    DTYPE = "int8"
    # With fewer LLVM copies sums from register to register.
    TEMPORARIES = 2
    ACCUMULATES = True

    def offset(self, nonnegative: bool) -> int:
        """See ``IntegerUnit``."""
        return -128 if nonnegative else 0

    def product(self, values: Expr, filters: Expr) -> Expr:
        """See ``IntegerUnit``."""
        return self._dot(T.broadcast(T.int32(0), self.lanes), values, filters)

    def add(self, total: emit.Register, values: Any, filters: Any) -> None:
        """See ``ProductUnit``."""
        total.set(self._dot(total.get(), values, filters))

    def _dot(self, total: Expr, values: Expr, filters: Expr) -> Expr:
        name = f"llvm.aarch64.neon.sdot.v{self.lanes}i32.v{4 * self.lanes}i8"
        bytes_of = tirx.reinterpret(f"int8x{4 * self.lanes}", values)
        return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", name, total, bytes_of, filters)


def sums_of_pairs(lanes: int, values: Expr, others: Expr) -> Expr:
    """Sums of the products of two neighbours of 16 bits, int32 (pmaddwd)."""
    name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name[lanes], values, others)


def sums_of_byte_pairs(lanes: int, values: Expr, filters: Expr) -> Expr:
    """Sums of the products of two neighbours, of 16 bits (pmaddubsw): unsigned bytes, int32, by signed ones."""
    name = {4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}[lanes]
    unsigned = tirx.reinterpret(f"int8x{4 * lanes}", values)
    return T.bind(tirx.call_llvm_pure_intrin(f"int16x{2 * lanes}", f"llvm.x86.{name}", unsigned, filters))
