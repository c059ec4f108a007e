"""What a CPU target multiplies small integers with."""

from __future__ import annotations

import dataclasses

from tvm.target import Target, codegen

from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.processor import architecture
from haste_compiler.methods.quantized.bits import NARROW_BITS
from haste_compiler.methods.quantized.cpu.ternary import TernaryBytes, TernaryPairs
from haste_compiler.methods.quantized.cpu.unit import Bytes, IntegerUnit, Multiply, Pairs, SignedDot, UnsignedDot


def integer_unit(target: Target) -> IntegerUnit:
    """What a CPU target multiplies small integers with."""
    unit = vector_unit(target)
    size = (unit.lanes, unit.registers)
    if architecture(target) == "aarch64":
        return SignedDot(*size) if codegen.target_has_features("dotprod", target) else Multiply(*size)
    if _has(target, "avx512vnni") and (unit.lanes == 16 or _has(target, "avx512vl")):
        return UnsignedDot(*size)
    if _has(target, "avxvnni") and unit.lanes == 8:
        return UnsignedDot(*size)
    if unit.lanes == 16 and not _has(target, "avx512bw"):
        return Multiply(*size)
    return Pairs(*size)


def narrow_unit(target: Target) -> IntegerUnit | None:
    """What a CPU target multiplies values of 7 bits with, if it multiplies them faster than those of 8."""
    own = integer_unit(target)
    return Bytes(own.lanes, own.registers) if isinstance(own, Pairs) and _has(target, "ssse3") else None


def ternary_unit(target: Target) -> IntegerUnit | None:
    """What a CPU target multiplies values by -1, 0 and 1 with, if it does that faster than by filters of 8 bits."""
    own = integer_unit(target)
    size = (own.lanes, own.registers)
    if isinstance(own, Pairs) and _has(target, "ssse3"):
        return TernaryBytes(*size)
    if isinstance(own, Multiply) and architecture(target) == "aarch64":
        return TernaryPairs(*size)
    return None


def unit_for(target: Target, bits: int, ternary: bool = False) -> IntegerUnit:
    """What a CPU target multiplies values of so many bits with, by filters of 8 bits or by -1, 0 and 1."""
    if ternary:
        return dataclasses.replace(ternary_unit(target) or integer_unit(target), bits=bits)
    narrow = narrow_unit(target) if bits == NARROW_BITS else None
    return narrow or dataclasses.replace(integer_unit(target), bits=bits)


def _has(target: Target, feature: str) -> bool:
    return bool(codegen.target_has_features(feature, target))
