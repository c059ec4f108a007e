"""What code is made for where tensors are, as PyTorch has them."""

from __future__ import annotations

import torch

from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.target import FOLDERS, machine_of, parse_target


def machines(threads: int = 1) -> list[Machine]:
    """One of every kind: the CPU first."""
    return [machine_of(parse_target(kind), threads) for kind in FOLDERS]


def machine_for(device: torch.device, threads: int) -> Machine:
    """The machine that computes where a device's tensors are."""
    return next(each for each in machines(threads) if str(device) == each.torch_devices[-1])
