"""What other CPUs multiply small integers with, emulated: the same places in memory and offsets, plain arithmetic."""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.target import parse_target
from haste_compiler.methods.quantized.cpu.ternary import TernaryBytes, TernaryPairs
from haste_compiler.methods.quantized.cpu.unit import (
    Bytes,
    IntegerUnit,
    Multiply,
    SignedDot,
    UnsignedDot,
)
from haste_compiler.methods.quantized.cpu.units import integer_unit, narrow_unit, ternary_unit


class EmulatedUnsignedDot(UnsignedDot):
    def _dot(self, total: Any, values: Any, filters: Any) -> Any:
        return total + sum_of_products("uint8", self, values, filters)


class EmulatedSignedDot(SignedDot):
    def _dot(self, total: Any, values: Any, filters: Any) -> Any:
        return total + sum_of_products("int8", self, values, filters)


class EmulatedBytes(Bytes):
    """Its sums of 16 bits wrap where the instruction's would saturate: either is wrong."""

    def _narrow(self, values: Any, filters: Any) -> Any:
        lanes = 2 * self.lanes
        wide = f"int16x{lanes}"
        unsigned = T.bind(tirx.reinterpret(f"uint8x{2 * lanes}", values))
        first, second = (
            T.Cast(wide, tirx.Shuffle([unsigned], list(range(u, 2 * lanes, 2))))
            * T.Cast(wide, tirx.Shuffle([filters], list(range(u, 2 * lanes, 2))))
            for u in range(2)
        )
        return T.bind(first + second)


class EmulatedTernaryBytes(TernaryBytes):
    """Its sums wrap where the instruction's would saturate, as ``EmulatedBytes``."""

    def product(self, values: Any, filters: Any) -> Any:
        return EmulatedBytes(self.lanes, self.registers)._narrow(values, filters)

    def widened(self, sums: Any) -> Any:
        return sums_of_neighbours(self.lanes, sums)


class EmulatedTernaryPairs(TernaryPairs):
    def widened(self, sums: Any) -> Any:
        return sums_of_neighbours(self.lanes, sums)


def sums_of_neighbours(lanes: int, values: Any) -> Any:
    """Of 16 bits, int32."""
    bound = T.bind(values)
    even, odd = (tirx.Shuffle([bound], list(range(u, 2 * lanes, 2))) for u in range(2))
    return T.Cast(f"int32x{lanes}", even) + T.Cast(f"int32x{lanes}", odd)


def sum_of_products(dtype: str, unit: IntegerUnit, values: Any, filters: Any) -> Any:
    """Of the group of bytes of each lane, int32."""
    lanes, group = unit.lanes, unit.GROUP
    wide = f"int32x{lanes}"
    groups = T.bind(tirx.reinterpret(f"{dtype}x{group * lanes}", values))
    return sum(
        T.Cast(wide, tirx.Shuffle([groups], [lane * group + u for lane in range(lanes)]))
        * T.Cast(wide, tirx.Shuffle([filters], [lane * group + u for lane in range(lanes)]))
        for u in range(group)
    )


def unit_of(name: str, target: str) -> IntegerUnit:
    """The unit of a target, or another one of as many lanes that code for the target can run."""
    own = integer_unit(parse_target(target))
    if name == "own":
        return own
    kinds: dict[str, Callable[[int, int], IntegerUnit]] = {
        "multiply": Multiply,
        "unsigned": EmulatedUnsignedDot,
        "signed": EmulatedSignedDot,
        "bytes": EmulatedBytes,
        "ternary": EmulatedTernaryBytes,
        "ternary pairs": EmulatedTernaryPairs,
    }
    if name == "bytes" and (narrow := narrow_unit(parse_target(target))):
        return narrow
    if name == "ternary" and (ternary := ternary_unit(parse_target(target))):
        return ternary
    return kinds[name](own.lanes, own.registers)


OF_8_BITS = ("own", "multiply", "unsigned", "signed")
UNITS = (*OF_8_BITS, "bytes")
AS_WRITTEN = (*UNITS, "ternary", "ternary pairs")
"""Those of convolutions that are computed as they are written."""
