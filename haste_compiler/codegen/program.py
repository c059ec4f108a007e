"""What a network is lowered to, and what of it is needed to call its machine code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from haste_compiler.codegen.dynamic import BatchRange
from haste_compiler.graph.geometry import ConvGeometry


@dataclass(frozen=True)
class HasteGroup:
    """One grouping in the compiled network, and the layers that share it.

    Attributes:
        layers: qualified names, the first of them names the settings.
        geometries: the geometry of each.
        images: batch size; of a dynamic batch, that of the example inputs.
        merge, skip: the rules that are compiled in.
        nonzeros: of each hyperplane, see ``HasteConfig``.
        settings: float32 (3,), the values to start with.
        gated: whether it is given up, for one call, where a few patches find too little to merge; its statistics then
            hold what was chosen, int32 (1,), after counts and bound.
    """

    layers: tuple[str, ...]
    geometries: tuple[ConvGeometry, ...]
    images: int
    merge: str
    skip: str
    nonzeros: int | None
    settings: tuple[float, float, float]
    gated: bool = False


@dataclass
class Program:
    """How to call a network's ``main(*inputs, *settings, *constants)``: outputs, then every grouping's statistics.

    Attributes:
        constants: packed weights and tables, in the order of ``main``'s last parameters; arrays, or TVM tensors that
            several programs share.
        groups: the groupings, in the order of their settings and statistics.
        outputs: how many outputs come first.
        kernels: for each kernel launched, in order, its symbol and the layer it belongs to.
        batch: the batches that it takes; None: that of its shapes only.
    """

    constants: Sequence[Any]
    groups: list[HasteGroup]
    outputs: int
    kernels: list[tuple[str, str]]
    batch: BatchRange | None


@dataclass
class Lowered(Program):
    """A network as a TVM module.

    Attributes:
        mod: defines ``main``.
        plan: every distinct kernel with its shapes and tiling: what the code depends on besides the graph.
    """

    mod: tvm.IRModule
    plan: str
