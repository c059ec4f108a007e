"""Planting faults in a compiled network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.executable import Executable, to_torch


def executable_of(compiled: CompiledModule) -> Executable:
    return compiled._parts()[0].executable


@contextmanager
def unharmed(compiled: CompiledModule) -> Iterator[CompiledModule]:
    """A compiled network whose constants get their values back when it is closed."""
    constants = [to_torch(constant) for constant in executable_of(compiled).constants]
    values = [constant.clone() for constant in constants]
    yield compiled
    for constant, value in zip(constants, values, strict=True):
        constant.copy_(value)


def constants_of(compiled: CompiledModule, x: Tensor, layer: str, kernel: str) -> list[Tensor]:
    """The packed constants that a layer's kernel reads, on their own memory: what is written there is computed with."""
    executable, found = executable_of(compiled), list[Tensor]()
    addresses = {constant.data_ptr() for constant in executable.constants}

    def see(name: str, symbol: str, before: bool, arguments: Sequence[Any]) -> None:
        if before and name == layer and symbol.startswith(kernel):
            found.extend(to_torch(each) for each in arguments if each.data_ptr() in addresses)

    with executable.watched(see):
        compiled(x)
    assert found, f"{layer} has no kernel {kernel}"
    return found


def alter(constant: Tensor) -> None:
    """Change the entry of a constant that matters most."""
    flat = constant.view(-1)
    place = flat.abs().argmax()
    flat[place] = -2 * flat[place] if flat[place] else 1.0
    assert torch.isfinite(flat).all()
