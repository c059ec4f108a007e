"""What every kernel of a compiled network reads and writes in one call."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from haste_compiler.codegen.program import layers_of
from haste_compiler.methods.statistics import LayerStatistics
from haste_compiler.runtime.executable import Executable, to_torch


@dataclass(frozen=True)
class KernelCall:
    """One kernel's call.

    Attributes:
        symbol: the kernel's name.
        arguments: copies of the float32 tensors that it was given, as they were before it ran; none of a kernel that
            computes several layers.
        result: a copy of its last argument, the tensor that it wrote.
    """

    symbol: str
    arguments: tuple[Tensor, ...]
    result: Tensor

    def read(self, shape: Sequence[int]) -> list[Tensor]:
        """Its arguments of a shape, without the one that it writes."""
        return [argument for argument in self.arguments if argument.shape == tuple(shape)]

    def made(self, shape: Sequence[int]) -> Tensor | None:
        """Its result, which is NHWC or flat, in the shape of a node's value; None: it is something else."""
        if len(shape) == 4:
            n, c, h, w = shape
            return self.result.permute(0, 3, 1, 2) if self.result.shape == (n, h, w, c) else None
        return self.result.reshape(shape) if self.result.numel() == math.prod(shape) else None


@dataclass(frozen=True)
class Recording:
    """One call of a compiled network.

    Attributes:
        outputs: what it returned, flat.
        calls: the kernels' calls by the layer whose result they make, each in order.
        stats: what the methods' layers did, by name.
    """

    outputs: list[Tensor]
    calls: dict[str, list[KernelCall]]
    stats: dict[str, LayerStatistics]


def record(executable: Executable, tensors: Sequence[Tensor]) -> Recording:
    """Run a compiled network once and copy what its layers' kernels read and write.

    Constants are not copied. The copies take as much memory as all activations together.
    """
    constants = {constant.data_ptr() for constant in executable.constants}
    known = {layer for _, layer in executable.kernels}
    calls: dict[str, list[KernelCall]] = defaultdict(list)
    given: tuple[Tensor, ...] = ()

    def see(layer: str, symbol: str, before: bool, arguments: Sequence[Any]) -> None:
        nonlocal given
        if layer not in known:
            return
        *earlier, last = layers_of(layer)
        if before:
            # What the last of several layers reads is in no tensor.
            read = () if earlier else arguments[:-1]
            given = tuple(_copy(each) for each in read if _is_float(each) and each.data_ptr() not in constants)
        else:
            calls[last].append(KernelCall(symbol, given, _copy(arguments[-1])))

    with executable.watched(see):
        outputs, stats = executable.run_with_stats(tensors)
    return Recording(outputs, dict(calls), stats)


def _is_float(argument: Any) -> bool:
    return str(getattr(argument, "dtype", "")) == "float32"


def _copy(argument: Any) -> Tensor:
    copied: Tensor = to_torch(argument).clone(memory_format=torch.contiguous_format)
    return copied
