"""The target a network is compiled for: what the user wrote, and what the kernels need to know of the machine."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from tvm.target import Target, codegen

from haste_compiler.codegen.cuda.target import arch_of, cuda_options, is_cuda, missing_card
from haste_compiler.errors import TargetError, first_line

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
    ``{"kind": "llvm", "mcpu": "haswell"}`` name another. ``"cuda"`` is this machine's card (without one: sm_80), with
    this machine as its host; ``"cuda -arch=sm_90"`` names another.

    Raises:
        TargetError: the kind is unknown, an option is malformed, or LLVM doesn't know the CPU or its architecture.
    """
    if isinstance(target, str):
        options = _parse_string(target)
    elif isinstance(target, Target):
        options = {"kind": str(target.kind.name), **({"arch": arch_of(target)} if is_cuda(target) else {})}
    elif isinstance(target, Mapping):
        options = dict(target)
    else:
        raise TargetError(f"the target is {type(target).__name__}: allowed are a string, a mapping and a tvm Target")
    kind = options.get("kind")
    if kind not in ("llvm", "cuda"):
        raise TargetError(
            f"unknown target {kind!r}: allowed are 'llvm' and 'cuda' (with options as in 'llvm -mcpu=haswell' and "
            "'cuda -arch=sm_90', or TVM's dict form)"
        )
    if isinstance(target, Target) and (kind == "llvm" or target.host is not None):
        return target
    if kind == "cuda":
        options = cuda_options({"host": {"kind": "llvm", "mcpu": _own_cpu()}, **options})
    else:
        if "mcpu" not in options and "mtriple" not in options:
            options["mcpu"] = _own_cpu()
        _check_cpu(options)
    try:
        return Target(options)
    except Exception as error:
        raise TargetError(f"target {target!r} is refused: {first_line(error)}") from None


def _parse_string(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"target {text!r} is malformed: {str(error).lower()}") from None
    if not words:
        raise TargetError("the target is empty: allowed are 'llvm' and 'cuda', with options such as '-mcpu=haswell'")
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


def missing_features(target: Target) -> list[str]:
    """What of a target's instruction set this machine doesn't have; empty where code for it can run here."""
    card = missing_card(arch_of(target)) if is_cuda(target) else []
    return [*missing_here(architecture(target), required_features(target)), *card]


def host_of(target: Target) -> Target:
    """The CPU target that a network is called on: a card's host, or the target itself."""
    return target.host if is_cuda(target) else target


def architecture(target: Target) -> str:
    """The architecture's name, "x86_64" or "aarch64"; for a card that of its host."""
    target = host_of(target)
    return _architecture(str(target.attrs.get("mtriple", codegen.llvm_get_system_triple())))


def cpu_name(target: Target) -> str:
    """What code for a target is made for: the CPU by LLVM's name, without one the architecture; a card's "sm_80"."""
    if is_cuda(target):
        return arch_of(target)
    return str(target.attrs.get("mcpu", architecture(target)))


def target_options(target: Target) -> dict[str, Any]:
    """What makes the same target again."""
    derived = ("keys", "tag")
    options = json.loads(str(target))
    return {key: value for key, value in options.items() if key not in derived and not key.startswith("feature.")}


def own_architecture() -> str:
    """The architecture of this machine."""
    return _architecture(codegen.llvm_get_system_triple())


def required_features(target: Target) -> list[str]:
    """Extensions of the instruction set, of those that not every x86-64 machine has, that code for a target uses."""
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(host_of(target))}
    return [name for name in _X86_FEATURES if name in features]


def missing_here(wanted: str, features: Sequence[str]) -> list[str]:
    """What code for an architecture, with some of its extensions, needs that this machine doesn't have."""
    if wanted != own_architecture():
        return [wanted]
    flags = _own_flags()
    return [name for name in features if flags and name.replace("sse4.", "sse4_") not in flags]


_X86_FEATURES = (
    "sse4.1",
    "sse4.2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "bmi2",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
)


@lru_cache(maxsize=1)
def _own_flags() -> frozenset[str]:
    """What Linux says an x86-64 processor can do; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


@lru_cache(maxsize=1)
def _own_cpu() -> str:
    """LLVM's name of this processor; a virtual machine may hide some of its instructions: then what is left."""
    name = str(codegen.llvm_get_system_cpu())
    levels = ("x86-64-v3", "x86-64-v2", "x86-64") if _own_flags() else ()
    choices = (name, *levels)
    return next((cpu for cpu in choices if not missing_features(Target({"kind": "llvm", "mcpu": cpu}))), choices[-1])


@lru_cache(maxsize=64)
def vector_unit(target: Target) -> VectorUnit:
    """The vector unit of a CPU target: AVX-512, AVX2, NEON, or SSE."""
    if architecture(target) == "aarch64":
        return VectorUnit(lanes=4, registers=32, l2_bytes=1 << 19)
    if codegen.target_has_features("avx512f", target):
        return VectorUnit(lanes=16, registers=32)
    if codegen.target_has_features("avx2", target):
        return VectorUnit(lanes=8, registers=16, l2_bytes=1 << 18)
    return VectorUnit(lanes=4, registers=16, l2_bytes=1 << 18)
