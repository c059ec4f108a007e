"""Rounding values to small integers in a kernel, to the same bits as ``reference.rounding.quantize``."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.reference.rounding import LEAST

_WITHOUT_SIGN = 0x7FFFFFFF
_INFINITY = 0x7F800000
"""Of a float32, as an integer: those of NaNs are greater, those of finite numbers less."""

_ROUNDING = 3 * 2.0**22
"""A float32 to which an integer of up to 22 bits is added exactly, in its lowest bits: what is added is rounded."""


class Largest:
    """The largest absolute value so far, as an integer of the same bits: then no NaN is lost in a comparison."""

    def __init__(self, lanes: int) -> None:
        self._bits = emit.Register(lanes, T.broadcast(T.int32(0), lanes) if lanes > 1 else T.int32(0), "int32")

    def include(self, values: Expr, n: int) -> None:
        """Look at ``n`` values, at most as many as there are lanes."""
        mask = emit.splat(T.int32(_WITHOUT_SIGN), n)
        size = tirx.reinterpret(_vector("int32", n), values) & mask
        emit.store(self._bits.buffer, 0, T.max(emit.load(self._bits.buffer, 0, n), size), n)

    def bits(self) -> Expr:
        """The largest of all lanes, int32."""
        return T.bind(self._bits.fold(T.max))

    def lanes(self) -> Expr:
        """The largest of each lane, int32."""
        return self._bits.get()


def all_bits(largest: Sequence[Expr], lanes: int) -> Expr:
    """The ``bits`` of several in one vector: of a power of two of ``Largest.lanes``, at most as many as lanes."""
    values, count = list(largest), len(largest)
    while lanes > count:
        lanes //= 2
        low, high = ([tirx.Shuffle([value], list(range(at, at + lanes))) for value in values] for at in (0, lanes))
        values = [T.bind(T.max(a, b)) for a, b in zip(low, high, strict=True)]
    while count > 1:
        count //= 2
        low_lanes = [j if not j & count else lanes + j - count for j in range(lanes)]
        high_lanes = [j + count if not j & count else lanes + j for j in range(lanes)]
        pairs = list(zip(values[:count], values[count:], strict=True))
        values = [T.bind(T.max(tirx.Shuffle(pair, low_lanes), tirx.Shuffle(pair, high_lanes))) for pair in pairs]
    return values[0]


def is_finite(bits: Expr, lanes: int = 1) -> Expr:
    """Whether what ``Largest`` said, of each of so many lanes, is neither infinite nor NaN."""
    return bits < emit.splat(T.int32(_INFINITY), lanes)


def scaling(bits: Expr, limit: int, lanes: int = 1) -> tuple[Expr, Expr]:
    """What values are multiplied by before they are rounded, and the scale of the integers.

    Args:
        bits: what ``Largest.bits`` said, or as many of them as there are ``lanes``.
        limit: the largest integer, see ``reference.rounding.most``.
        lanes: of ``bits``.
    """
    most = emit.splat(T.float32(limit), lanes)
    least = emit.splat(T.float32(LEAST), lanes)
    largest = T.bind(T.max(tirx.reinterpret(_vector("float32", lanes), bits), least))
    return T.bind(most / largest), T.bind(largest / most)


def rounded(values: Expr, factor: Expr, offset: int, n: int, dtype: str) -> Expr:
    """``round(values · factor) + offset``, halves to even, as ``n`` integers of ``dtype``.

    Args:
        values: ``n`` finite float32.
        factor: as many, or one.
        offset: an even number, at most 2^21.
        n: lanes.
        dtype: of 8 or 16 bits, in which the result fits.
    """
    return T.Cast(_vector(dtype, n), _rounded_bits(values, factor, offset, n))


def rounded_groups(values: Sequence[Expr], factor: Expr, offset: int, n: int, dtype: str) -> Expr:
    """``rounded`` of several vectors: first their first elements, then their second ones, and so on.

    Of 16 bits there are one or two, of 8 bits four.
    """
    count = len(values)
    if count == 1:
        return rounded(values[0], factor, offset, n, dtype)
    bits = 32 // count
    integers = [_rounded_bits(value, factor, offset, n) for value in values]
    last = integers.pop() << emit.splat(T.int32(32 - bits), n)
    kept = [each & emit.splat(T.int32((1 << bits) - 1), n) for each in integers]
    placed = [kept[0], *(each << emit.splat(T.int32(bits * g), n) for g, each in enumerate(kept[1:], 1)), last]
    return tirx.reinterpret(f"{dtype}x{n * count}", reduce(operator.or_, placed))


def _rounded_bits(values: Expr, factor: Expr, offset: int, n: int) -> Expr:
    """int32 whose lowest 22 bits are what is asked for."""
    assert offset % 2 == 0
    name = "llvm.fma.f32" if n == 1 else f"llvm.fma.v{n}f32"
    factors = factor if n > 1 and str(factor.ty.dtype).endswith(f"x{n}") else emit.splat(factor, n)
    magic = emit.splat(T.float32(_ROUNDING + offset), n)
    total = tirx.call_llvm_pure_intrin(_vector("float32", n), name, values, factors, magic)
    return tirx.reinterpret(_vector("int32", n), total)


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"
