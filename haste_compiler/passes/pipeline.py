"""The order of the passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from torch import fx

from haste_compiler.graph.capture import Captured
from haste_compiler.graph.nodes import copy_module
from haste_compiler.passes.canonicalize import canonicalize
from haste_compiler.passes.drop_taps import drop_taps
from haste_compiler.passes.extract_convs import extract_convs
from haste_compiler.passes.extract_linears import extract_linears
from haste_compiler.passes.extract_transposed import extract_transposed
from haste_compiler.passes.factor_channels import factor_channels
from haste_compiler.passes.fold_batch_norm import fold_batch_norm
from haste_compiler.passes.fuse_affine import fuse_affine
from haste_compiler.passes.fuse_attention import fuse_attention
from haste_compiler.passes.fuse_channel_shuffle import fuse_channel_shuffle
from haste_compiler.passes.fuse_epilogue import fuse_epilogue
from haste_compiler.passes.fuse_gelu import fuse_gelu
from haste_compiler.passes.narrow_shuffle import narrow_channel_shuffle

Observer = Callable[[str, fx.GraphModule], object]
"""Called with a pass's name and the graph after it."""


class Pass(NamedTuple):
    """One step: a name, and a rewrite of a graph."""

    name: str
    run: Callable[[fx.GraphModule], fx.GraphModule]

    @classmethod
    def of(cls, run: Callable[[fx.GraphModule], fx.GraphModule]) -> Pass:
        """The pass that a function is, under its name."""
        return cls(run.__name__, run)


PASSES: Final = tuple(
    Pass.of(run)
    for run in (
        canonicalize,
        fuse_gelu,
        fuse_attention,
        fuse_channel_shuffle,
        narrow_channel_shuffle,
        fold_batch_norm,
        extract_convs,
        extract_transposed,
        drop_taps,
        factor_channels,
        extract_linears,
        fuse_affine,
        fuse_epilogue,
    )
)


def rewrite(captured: Captured, observer: Observer | None = None) -> fx.GraphModule:
    """Run all passes over a copy of a captured graph; ``captured`` can be used again.

    Args:
        captured: what :func:`capture` returned.
        observer: sees the graph after each pass, to print or to compare it. It must not change it.

    Returns:
        The graph, with plain convolutions and linear layers as operators of ours. It runs eagerly.
    """
    gm = copy_module(captured.gm)
    for step in PASSES:
        gm = step.run(gm)
        if observer is not None:
            observer(step.name, gm)
    return gm
