"""CPU targets: their options, and what the kernels need to know of the processor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tvm.target import Target, codegen

from haste_compiler.codegen.processor import architecture

_L2_BYTES = {"znver1": 1 << 19, "znver2": 1 << 19, "znver3": 1 << 19}
"""Of the second-level cache of a core, by LLVM's name, where it is larger than what such a vector unit goes with."""


@dataclass(frozen=True)
class VectorUnit:
    """The vector registers of a CPU and the caches its kernels are tiled for.

    Attributes:
        lanes: float32 lanes of one vector register.
        registers: architectural vector registers.
        l2_bytes: what a core may count on of its second-level cache.
    """

    lanes: int
    registers: int
    l2_bytes: int = 1 << 20

    @property
    def accumulators(self) -> int:
        """Registers left for sums once weights and one broadcast are held."""
        return self.registers - 4


@lru_cache(maxsize=64)
def vector_unit(target: Target) -> VectorUnit:
    """The vector unit of a CPU target: AVX-512, AVX2, NEON, or SSE."""
    if architecture(target) == "aarch64":
        return VectorUnit(lanes=4, registers=32, l2_bytes=1 << 19)
    if codegen.target_has_features("avx512f", target):
        return VectorUnit(lanes=16, registers=32)
    if codegen.target_has_features("avx2", target):
        return VectorUnit(lanes=8, registers=16, l2_bytes=_L2_BYTES.get(str(target.attrs.get("mcpu")), 1 << 18))
    return VectorUnit(lanes=4, registers=16, l2_bytes=1 << 18)
