"""The target a network is compiled for: what the user wrote, and what the kernels need to know of the machine."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from tvm.target import Target, codegen

from haste_compiler.errors import TargetError

TargetLike: TypeAlias = str | Mapping[str, Any] | Target


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


def parse_target(target: TargetLike) -> Target:
    """Turn a target string, TVM's dict form or a ``Target`` into a complete TVM target.

    ``"llvm"`` is the machine this runs on, with its own instruction set. ``"llvm -mcpu=haswell"`` and the dict form
    ``{"kind": "llvm", "mcpu": "haswell"}`` name another.

    Raises:
        TargetError: the kind is unknown, an option is malformed, or LLVM doesn't know the CPU.
    """
    if isinstance(target, Target):
        return target
    options = _parse_string(target) if isinstance(target, str) else dict(target)
    kind = options.get("kind")
    if kind != "llvm":
        raise TargetError(
            f"unknown target {kind!r}: allowed is 'llvm' (with options as in 'llvm -mcpu=haswell', or TVM's dict form)"
        )
    if "mcpu" not in options and "mtriple" not in options:
        options["mcpu"] = codegen.llvm_get_system_cpu()
    _check_cpu(options)
    try:
        return Target(options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise TargetError(f"target {target!r} is refused: {reason}") from None


def _parse_string(text: str) -> dict[str, Any]:
    words = shlex.split(text)
    if not words:
        raise TargetError("the target is empty: allowed is 'llvm', with options such as '-mcpu=haswell'")
    options: dict[str, Any] = {"kind": words[0]}
    for word in words[1:]:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not equals or not value:
            raise TargetError(
                f"target option {word!r} in {text!r} is malformed: write -name=value, for example -mcpu=haswell"
            )
        options[name] = value.split(",") if name == "mattr" else int(value) if value.isdigit() else value
    return options


def _check_cpu(options: Mapping[str, Any]) -> None:
    cpu, triple = options.get("mcpu"), options.get("mtriple", codegen.llvm_get_system_triple())
    if cpu is None or codegen.llvm_is_valid_cpu(cpu, triple):
        return
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))]
    close = difflib.get_close_matches(str(cpu), known, n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise TargetError(f"unknown CPU {cpu!r} for {triple}{hint}")


@lru_cache(maxsize=64)
def vector_unit(target: Target) -> VectorUnit:
    """The vector unit of a CPU target: AVX-512, AVX2, NEON, or SSE."""
    if "aarch64" in str(target.attrs.get("mtriple", "")) or "arm64" in str(target.attrs.get("mtriple", "")):
        return VectorUnit(lanes=4, registers=32, l2_bytes=1 << 19)
    if codegen.target_has_features("avx512f", target):
        return VectorUnit(lanes=16, registers=32)
    if codegen.target_has_features("avx2", target):
        return VectorUnit(lanes=8, registers=16, l2_bytes=1 << 18)
    return VectorUnit(lanes=4, registers=16, l2_bytes=1 << 18)
