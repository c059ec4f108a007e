"""From the graph that the passes made to the one that is lowered: every method chooses its layers and rewrites them."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from haste_compiler.graph.capture import Captured
from haste_compiler.graph.nodes import METHOD, layer_name
from haste_compiler.methods.beside import put_beside
from haste_compiler.methods.choose import Predict, choose_layers
from haste_compiler.methods.config import MethodConfig
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.method import Method
from haste_compiler.methods.registry import methods
from haste_compiler.ops.conv2d import CONV2D, WINOGRAD
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D
from haste_compiler.passes.pipeline import Observer, rewrite


def run_passes(
    captured: Captured,
    config: ConfigLike | Configs,
    observer: Observer | None = None,
    predict: Predict | None = None,
) -> fx.GraphModule:
    """Run all passes, and all methods, over a copy of a captured graph; ``captured`` can be used again.

    Args:
        captured: what :func:`capture` returned.
        config: what the methods take.
        observer: sees the graph after each step, to print or to compare it. It must not change it.
        predict: the cost model's predictions, which decide where a configuration's ``cost_model`` says so; None: all
            eligible layers are taken.

    Returns:
        The final graph. It runs eagerly and is called as the model is.

    Raises:
        ConfigError: an override matches no layer.
    """
    return apply_methods(rewrite(captured, observer), Configs.of(config), observer, predict)


def apply_methods(
    gm: fx.GraphModule, configs: Configs, observer: Observer | None = None, predict: Predict | None = None
) -> fx.GraphModule:
    """Let every method choose its layers, then rewrite them; arguments, result and errors as of ``run_passes``."""
    for name, step in _steps(configs, predict):
        gm = step(gm)
        if observer is not None:
            observer(name, gm)
    return gm


def apply_beside(
    gm: fx.GraphModule, configs: Configs, observer: Observer | None = None
) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """As ``apply_methods`` without predictions; but the network stays plain, and methods compute layers beside it.

    Methods that change other layers' shapes take no part.

    Returns:
        The graph, and the names of the layers that are its outputs, see ``put_beside``.
    """
    names: tuple[str, ...] = ()
    _, configs = configs.split(lambda method: method.RESHAPES)
    for name, step in _steps(configs, None):
        gm = step(gm)
        if name == choose_layers.__name__:
            names = put_beside(gm)
        if observer is not None:
            observer(name, gm)
    return gm, names


def _steps(configs: Configs, predict: Predict | None) -> list[tuple[str, Callable[[fx.GraphModule], fx.GraphModule]]]:
    reshaping, others = configs.split(lambda method: method.RESHAPES)
    return [
        *(step for each, config in reshaping for step in _reshaping(each, config, predict)),
        (choose_layers.__name__, lambda gm: choose_layers(_checked(gm, others), others, predict)),
        *((_rewrites(each), lambda gm, e=each, c=config: _rewritten(gm, e, c)) for each, config in others),
        (allow_winograd.__name__, lambda gm: allow_winograd(gm, others)),
    ]


def _reshaping(
    method: Method, config: MethodConfig, predict: Predict | None
) -> list[tuple[str, Callable[[fx.GraphModule], fx.GraphModule]]]:
    """The steps of a method that changes the shapes of the others' layers."""
    alone = Configs((config,))
    return [
        (f"choose_{method.NAME}", lambda gm: choose_layers(_checked(gm, alone), alone, predict)),
        (_rewrites(method), lambda gm: _rewritten(gm, method, config)),
    ]


def reshaping_steps() -> set[str]:
    """The steps that mean to change what the network computes, by shapes: no graph after them can be run plainly."""
    return {_rewrites(each) for each in methods() if each.RESHAPES}


def _rewrites(method: Method) -> str:
    return f"rewrite_{method.NAME}"


def _rewritten(gm: fx.GraphModule, method: Method, config: MethodConfig) -> fx.GraphModule:
    """Let a method rewrite a graph, and note which calls of the new graph are its own."""
    before = {node.name for node in gm.graph.nodes}
    gm = method.rewrite(gm, config)
    for node in gm.graph.nodes:
        if node.name not in before and getattr(node.target, "namespace", "aten") != "aten":
            node.meta.setdefault(METHOD, method.NAME)
    return gm


def _checked(gm: fx.GraphModule, configs: Configs) -> fx.GraphModule:
    for method, config in configs:
        method.check_layers(gm, config)
    return gm


def allow_winograd(gm: fx.GraphModule, configs: Configs) -> fx.GraphModule:
    """Note at every convolution up to which size of tiles Winograd's algorithm may compute it, plain or in a gate."""
    for node in gm.graph.nodes:
        if node.target in (CONV2D, CONV_TRANSPOSE2D) or OWNER in node.meta:
            node.meta[WINOGRAD] = configs.winograd(layer_name(node))
    return gm
