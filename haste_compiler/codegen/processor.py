"""The processor that code is made for, or that calls it: its architecture, its extensions, and what is here of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tvm.target import Target, codegen

from haste_compiler.errors import TargetError


def check_cpu(options: Mapping[str, Any]) -> None:
    """Check the CPU and architecture that a target's options name.

    Raises:
        TargetError: LLVM doesn't know them.
    """
    cpu, triple = options.get("mcpu"), options.get("mtriple", codegen.llvm_get_system_triple())
    for name, value in (("mcpu", cpu), ("mtriple", triple)):
        if not isinstance(value, str | None):
            raise TargetError(f"target option {name} is {value!r}: allowed is a string")
    # LLVM crashes when asked about an architecture that it wasn't built for.
    if _architecture(triple) not in ("x86_64", "aarch64"):
        raise TargetError(f"unknown architecture of mtriple {triple!r}: allowed are x86_64 and aarch64")
    if cpu is None or codegen.llvm_is_valid_cpu(cpu, triple):
        return
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))]
    close = difflib.get_close_matches(str(cpu), known, n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise TargetError(f"unknown CPU {cpu!r} for {triple}{hint}")


def _architecture(triple: str) -> str:
    name = triple.partition("-")[0].lower()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def architecture(target: Target) -> str:
    """The name of a CPU target's architecture, "x86_64" or "aarch64"."""
    return _architecture(str(target.attrs.get("mtriple", codegen.llvm_get_system_triple())))


def cpu_name(target: Target) -> str:
    """What code for a CPU target is made for: the CPU by LLVM's name, without one the architecture."""
    return str(target.attrs.get("mcpu", architecture(target)))


def own_architecture() -> str:
    """The architecture of this machine."""
    return _architecture(codegen.llvm_get_system_triple())


def required_features(target: Target) -> list[str]:
    """Extensions of the instruction set, of those that not every x86-64 machine has, that code for a target uses."""
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    return [name for name in _X86_FEATURES if name in features]


def missing_for(target: Target) -> list[str]:
    """What of a CPU target's instruction set this machine doesn't have; empty where code for it can run here."""
    return missing_here(architecture(target), required_features(target))


def missing_here(wanted: str, features: Sequence[str]) -> list[str]:
    """What code for an architecture, with some of its extensions, needs that this machine doesn't have."""
    if wanted != own_architecture():
        return [wanted]
    flags = _own_flags()
    return [name for name in features if flags and _X86_FEATURES.get(name, name) not in flags]


_X86_FEATURES: Mapping[str, str] = {
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    **{name: name for name in ("avx", "f16c", "fma", "avx2", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl")},
    "avxvnni": "avx_vnni",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
}
"""Extensions that kernels use, by LLVM's names, and what Linux calls them."""


@lru_cache(maxsize=1)
def _own_flags() -> frozenset[str]:
    """What Linux says an x86-64 processor can do; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


@lru_cache(maxsize=1)
def own_cpu() -> str:
    """LLVM's name of this processor; a virtual machine may hide some of its instructions: then what is left."""
    name = str(codegen.llvm_get_system_cpu())
    levels = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64") if _own_flags() else ()
    choices = (name, *levels)
    return next((cpu for cpu in choices if not missing_for(Target({"kind": "llvm", "mcpu": cpu}))), choices[-1])
