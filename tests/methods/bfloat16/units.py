"""Products of bfloat16 on any CPU: the same places in memory, plain arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tvm import tirx
from tvm.target import Target
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.methods.bfloat16.cpu.unit import BFloat16Unit, bfloat16_unit


class EmulatedUnit(BFloat16Unit):
    """The instructions spelled out: bfloat16 is the upper half of a float32."""

    def _dot(self, total: Any, values: Any, filters: Any) -> Any:
        pairs = T.bind(tirx.reinterpret(f"uint32x{self.lanes}", filters))
        values = T.bind(tirx.reinterpret(f"uint32x{self.lanes}", values))
        first = self._low(values) * self._low(pairs)
        return total + first + self._high(values) * self._high(pairs)

    def _low(self, bits: Any) -> Any:
        return tirx.reinterpret(f"float32x{self.lanes}", bits << emit.splat(T.uint32(16), self.lanes))

    def _high(self, bits: Any) -> Any:
        return tirx.reinterpret(f"float32x{self.lanes}", bits & emit.splat(T.uint32(0xFFFF0000), self.lanes))

    def rounded(self, values: Any, n: int) -> Any:
        suffix = "" if n == 1 else f"x{n}"

        def splat(number: int) -> Any:
            return emit.splat(T.uint32(number), n)

        values = T.bind(values)
        bits = T.bind(tirx.reinterpret(f"uint32{suffix}", values))
        even = (bits >> splat(16)) & splat(1)
        nearest = (bits + splat(0x7FFF) + even) >> splat(16)
        # Rounding a NaN like a number could make it infinity.
        is_nan = (bits & splat(0x7FFFFFFF)) > splat(0x7F800000)
        return T.Cast(f"uint16{suffix}", tirx.Select(is_nan, splat(0x7FC0), nearest))

    def code(self) -> AbstractContextManager[Any]:
        return nullcontext()


def emulated(target: Target) -> BFloat16Unit:
    """A unit of a target's vectors, emulated."""
    vectors = vector_unit(target)
    return EmulatedUnit(vectors.lanes, vectors.registers, "none")


def unit_of(target: str) -> BFloat16Unit:
    """The unit of a target; where it has none, an emulated one."""
    parsed = parse_target(target)
    return bfloat16_unit(parsed) or emulated(parsed)
