"""The order of the passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from torch import fx

from haste_compiler.graph.capture import Captured
from haste_compiler.graph.nodes import copy_module
from haste_compiler.methods.choose import Predict, choose_layers
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.rewrite import rewrite_haste
from haste_compiler.passes.allow_winograd import allow_winograd
from haste_compiler.passes.canonicalize import canonicalize
from haste_compiler.passes.drop_taps import drop_taps
from haste_compiler.passes.extract_convs import extract_convs
from haste_compiler.passes.extract_linears import extract_linears
from haste_compiler.passes.fold_batch_norm import fold_batch_norm
from haste_compiler.passes.fuse_affine import fuse_affine
from haste_compiler.passes.fuse_channel_shuffle import fuse_channel_shuffle
from haste_compiler.passes.fuse_epilogue import fuse_epilogue
from haste_compiler.passes.narrow_shuffle import narrow_channel_shuffle
from haste_compiler.passes.resize import write_resizing

Observer = Callable[[str, fx.GraphModule], object]
"""Called with a pass's name and the graph after it."""


class Pass(NamedTuple):
    """One step: a name, and a rewrite of a graph under a configuration, with predictions if there are any."""

    name: str
    run: Callable[[fx.GraphModule, HasteConfig, Predict | None], fx.GraphModule]


def _unconfigured(rewrite: Callable[[fx.GraphModule], fx.GraphModule]) -> Pass:
    return Pass(rewrite.__name__, lambda gm, config, predict: rewrite(gm))


PASSES: Final = (
    _unconfigured(canonicalize),
    _unconfigured(write_resizing),
    _unconfigured(fuse_channel_shuffle),
    _unconfigured(narrow_channel_shuffle),
    _unconfigured(fold_batch_norm),
    _unconfigured(extract_convs),
    _unconfigured(drop_taps),
    _unconfigured(extract_linears),
    _unconfigured(fuse_affine),
    _unconfigured(fuse_epilogue),
    Pass(choose_layers.__name__, choose_layers),
    Pass(rewrite_haste.__name__, lambda gm, config, predict: rewrite_haste(gm, config)),
    Pass(allow_winograd.__name__, lambda gm, config, predict: allow_winograd(gm, config)),
)


def run_passes(
    captured: Captured, config: HasteConfig, observer: Observer | None = None, predict: Predict | None = None
) -> fx.GraphModule:
    """Run all passes over a copy of a captured graph; ``captured`` can be used again, with another configuration.

    Args:
        captured: what :func:`capture` returned.
        config: what becomes HASTE.
        observer: sees the graph after each pass, to print or to compare it. It must not change it.
        predict: the cost model's predictions, which decide where ``config.cost_model`` says so; None: all eligible
            convolutions become HASTE convolutions.

    Returns:
        The final graph. It runs eagerly and is called as the model is.

    Raises:
        ConfigError: an override of ``config`` matches no layer.
    """
    gm = copy_module(captured.gm)
    for step in PASSES:
        gm = step.run(gm, config, predict)
        if observer is not None:
            observer(step.name, gm)
    return gm
