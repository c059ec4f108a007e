"""Rounding values to small integers in a kernel, to the same bits as ``reference.rounding.quantize``."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.reference.rounding import LEAST, SIGNED, UNSIGNED

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
        kind = "int32" if n == 1 else f"int32x{n}"
        mask = emit.splat(T.int32(_WITHOUT_SIGN), n)
        size = tirx.reinterpret(kind, values) & mask
        emit.store(self._bits.buffer, 0, T.max(emit.load(self._bits.buffer, 0, n), size), n)

    def bits(self) -> Expr:
        """The largest of all lanes, int32."""
        return T.bind(self._bits.fold(T.max))


def is_finite(bits: Expr) -> Expr:
    """Whether what ``Largest.bits`` said is neither infinite nor NaN."""
    return bits < T.int32(_INFINITY)


def scaling(bits: Expr, *, nonnegative: bool) -> tuple[Expr, Expr]:
    """What values are multiplied by before they are rounded, and the scale of the integers; from ``Largest.bits``."""
    most = T.float32(UNSIGNED if nonnegative else SIGNED)
    largest = T.bind(T.max(tirx.reinterpret("float32", bits), T.float32(LEAST)))
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
    assert offset % 2 == 0
    vector = "" if n == 1 else f"x{n}"
    name = "llvm.fma.f32" if n == 1 else f"llvm.fma.v{n}f32"
    factors = factor if str(factor.ty.dtype).endswith(vector) and n > 1 else emit.splat(factor, n)
    magic = emit.splat(T.float32(_ROUNDING + offset), n)
    total = tirx.call_llvm_pure_intrin(f"float32{vector}", name, values, factors, magic)
    return T.Cast(f"{dtype}{vector}", tirx.reinterpret(f"int32{vector}", total))
