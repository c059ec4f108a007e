"""What a CPU multiplies bfloat16 with: its instructions, and the code that calls them.

TVM's passes would turn bfloat16 into float32. So what computes with it is written in LLVM's language, as functions that
take its bits as integers, which LLVM puts in the place of their calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.element import Element
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.processor import architecture
from haste_compiler.methods.quantized.cpu.unit import ProductUnit

EXAMPLES = "-mcpu=znver4, sapphirerapids or cooperlake, on AArch64 neoverse-v1 or neoverse-n2"
"""CPUs that multiply bfloat16, as a target names them."""

_DOT, _ROUND = "haste_bfloat16_dot", "haste_bfloat16_round"


@dataclass(frozen=True)
class BFloat16Unit(ProductUnit):
    """Pairs of neighbouring values, float32 sums.

    Attributes:
        intrinsic: LLVM's name of the product that is added to a vector of sums.
        single: the second value of a pair is taken for zero, whatever is in memory.
    """

    intrinsic: str
    single: bool = False

    # Filters and values are the bits of bfloat16.
    FILTERS = Element("uint16", 2, "float32")
    DTYPE = "uint16"
    GROUP = 2
    TEMPORARIES = 0
    ACCUMULATES = True
    # As many products of pairs a cycle as fused multiply-adds of float32.
    CYCLES = 0.5
    ROUNDING_CYCLES = 1.0
    LINE_CYCLES = 3.0
    ROW_CYCLES = 0.0
    INPUT_CYCLES: ClassVar[Mapping[int, float]] = {2: 75.0, 4: 210.0}
    TILE_CYCLES: ClassVar[Mapping[int, float]] = {2: 20.0, 4: 20.0}

    @property
    def first_only(self) -> BFloat16Unit:
        """The same, of the first value of each pair."""
        return dataclasses.replace(self, single=True)

    def values_of(self, buffer: Expr, index: Expr) -> Expr:
        """See ``ProductUnit``."""
        if not self.single:
            return super().values_of(buffer, index)
        return T.bind(T.broadcast(T.Cast("int32", buffer[index]), self.lanes))

    def add(self, total: emit.Register, values: Expr, filters: Expr) -> None:
        """See ``ProductUnit``."""
        total.set(self._dot(total.get(), values, filters))

    def _dot(self, total: Expr, values: Expr, filters: Expr) -> Expr:
        """Sums, float32, and the products of pairs: bits of values, int32, with those of filters, uint16."""
        return tirx.call_pure_extern(f"float32x{self.lanes}", _DOT, total, values, filters)

    def rounded(self, values: Expr, n: int) -> Expr:
        """The bits, uint16, of ``n`` float32 values rounded to bfloat16, to nearest, halves to even."""
        return tirx.call_pure_extern("uint16" if n == 1 else f"uint16x{n}", f"{_ROUND}_{n}", values)

    def code(self) -> AbstractContextManager[Any]:
        """While it is open, a kernel is built that has the functions which are called here."""
        context: AbstractContextManager[Any] = T.attr(0, "pragma_import_llvm", self._functions())
        return context

    def _functions(self) -> str:
        """In LLVM's language."""
        sums, pairs, halves = (f"<{n} x {kind}>" for n, kind in self._operands())
        bits = f"<{2 * self.lanes} x i16>"
        widths = [1 << power for power in range((2 * self.lanes).bit_length())]
        return f"""
declare {sums} @{self.intrinsic}({sums}, {halves}, {halves})
define {sums} @{_DOT}({sums} %sums, {pairs} %values, {bits} %filters) {{
  %left = bitcast {pairs} %values to {halves}
  %right = bitcast {bits} %filters to {halves}
  %total = call {sums} @{self.intrinsic}({sums} %sums, {halves} %left, {halves} %right)
  ret {sums} %total
}}
{"".join(map(_rounding, widths))}"""

    def _operands(self) -> list[tuple[int, str]]:
        return [(self.lanes, "float"), (self.lanes, "i32"), (2 * self.lanes, "bfloat")]


def _rounding(n: int) -> str:
    """The function that rounds ``n`` values, in LLVM's language."""
    single, half, bits = (kind if n == 1 else f"<{n} x {kind}>" for kind in ("float", "bfloat", "i16"))
    return f"""
define {bits} @{_ROUND}_{n}({single} %values) {{
  %rounded = fptrunc {single} %values to {half}
  %bits = bitcast {half} %rounded to {bits}
  ret {bits} %bits
}}"""


def bfloat16_unit(target: Target) -> BFloat16Unit | None:
    """What a CPU target multiplies bfloat16 with; None: it has no instruction for that."""
    unit = vector_unit(target)
    size = (unit.lanes, unit.registers)
    if architecture(target) == "aarch64":
        return BFloat16Unit(*size, "llvm.aarch64.neon.bfdot.v4f32.v8bf16") if _has(target, "bf16") else None
    if unit.lanes == 16 and _has(target, "avx512bf16") and _has(target, "avx512vl"):
        return BFloat16Unit(*size, "llvm.x86.avx512bf16.dpbf16ps.512")
    return None


def required_unit(target: Target) -> BFloat16Unit:
    """``bfloat16_unit`` of a target that was checked to have one."""
    unit = bfloat16_unit(target)
    assert unit is not None
    return unit


def _has(target: Target, feature: str) -> bool:
    return bool(codegen.target_has_features(feature, target))
