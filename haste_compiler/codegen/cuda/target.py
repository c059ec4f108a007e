"""CUDA targets, and what this machine has to run code for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tvm
from tvm.target import Target

from haste_compiler.errors import TargetError

CARD = 0
"""Index of the card that code runs on, as PyTorch and TVM count them."""

DEFAULT_ARCH = "sm_80"
"""What code is made for where there is no card: the first generation with asynchronous copies, TF32 and bfloat16."""

_PROCESSORS = {80: 108, 86: 84, 87: 16, 89: 128, 90: 132, 100: 148, 103: 148, 120: 170}
"""Multiprocessors of the usual card of each generation."""


def cuda_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the options of a CUDA target: the architecture is the card's, without a card ``DEFAULT_ARCH``.

    Raises:
        TargetError: the architecture is malformed, or older than asynchronous copies.
    """
    arch = options.get("arch", f"sm_{card_version()}" if has_card() else DEFAULT_ARCH)
    if not isinstance(arch, str) or not re.fullmatch(r"sm_\d{2,3}[af]?", arch):
        raise TargetError(f"target option arch is {arch!r}: write it as in 'cuda -arch=sm_90'")
    if _number(arch) < 80:
        raise TargetError(f"target option arch is {arch!r}: the kernels need sm_80 or later")
    return {**options, "arch": arch}


def arch_of(target: Target) -> str:
    """A CUDA target's architecture, such as "sm_80"."""
    return str(target.attrs["arch"])


def processors(target: Target) -> int:
    """Multiprocessors of the card that kernels are cut for: this machine's, or the usual one's of the generation."""
    if has_card() and card_version() == _number(arch_of(target)):
        return int(tvm.cuda(0).multi_processor_count or _PROCESSORS[80])
    known = [count for generation, count in _PROCESSORS.items() if generation <= _number(arch_of(target))]
    return known[-1]


def missing_card(arch: str) -> list[str]:
    """What this machine lacks to run code for an architecture; empty if nothing."""
    if not has_card():
        return ["CUDA card that TVM can use"]
    version = card_version()
    return [] if version >= _number(arch) else [f"card of {arch} (its card is sm_{version})"]


def has_card() -> bool:
    """Whether TVM finds a CUDA card."""
    return bool(tvm.cuda(0).exist)


def card_version() -> int:
    """The first card's compute capability, 80 for 8.0."""
    major, _, minor = str(tvm.cuda(0).compute_version).partition(".")
    return 10 * int(major) + int(minor or 0)


def generation(target: Target) -> int:
    """A CUDA target's architecture as a number, 90 for "sm_90a"."""
    return _number(arch_of(target))


def _number(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))
