"""What a network is lowered to, and what of it is needed to call its machine code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm

from haste_compiler.fallback.record import Fallback
from haste_compiler.graph.dynamic import BatchRange

_JOINT = " + "


def joint_layer(names: Sequence[str]) -> str:
    """The layer that a kernel which computes several belongs to; the last one's result is the kernel's."""
    return _JOINT.join(names)


def layers_of(layer: str) -> list[str]:
    """The names that ``joint_layer`` joined."""
    return layer.split(_JOINT)


@dataclass(frozen=True)
class Record:
    """What a method left in a compiled network for some layers that it treats as one.

    Attributes:
        method: the method's name.
        layers: qualified names; the first of them names the parameters.
        values: of the method's parameters, in their order: what the network starts with. They can be steered.
        statistics: how many tensors of statistics a call returns for it.
        data: what the method needs to read these, as JSON can hold it.
    """

    method: str
    layers: tuple[str, ...]
    values: tuple[float, ...]
    statistics: int
    data: Mapping[str, Any]


@dataclass
class Program:
    """How to call a network's ``main(*inputs, *parameters, *constants)``: outputs, then every record's statistics.

    Attributes:
        constants: packed weights and tables, in the order of ``main``'s last parameters; arrays, or TVM tensors that
            several programs share.
        records: in the order of their parameters, float32 (parameters,) each, and of their statistics.
        outputs: how many outputs come first.
        kernels: for each kernel launched, in order, its symbol and the layer it belongs to.
        batch: the batches that it takes; None: that of its shapes only.
        fallbacks: what PyTorch runs, by the numbers that the code calls it by.
    """

    constants: Sequence[Any]
    records: list[Record]
    outputs: int
    kernels: list[tuple[str, str]]
    batch: BatchRange | None
    fallbacks: Sequence[Fallback] = field(kw_only=True, default=())


@dataclass
class Lowered(Program):
    """A network as a TVM module.

    Attributes:
        mod: defines ``main``.
        plan: every distinct kernel with its shapes and tiling: what the code depends on besides the graph.
    """

    mod: tvm.IRModule
    plan: str
