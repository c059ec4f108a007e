"""Predicting every layer that could be computed in integers: how long each algorithm takes, and what it changes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

from torch import Tensor, fx

from haste_compiler.graph.nodes import get_tensor, shape_of
from haste_compiler.methods.method import Pricing, Site
from haste_compiler.methods.prediction import Estimate, Prediction
from haste_compiler.methods.quantized.attention import attention_error, attention_inputs, is_attention
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.errors import relative_errors
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.sites import algorithms, geometry_of, plain_call
from haste_compiler.ops.linear import LINEAR

_SEED = 0


def price(gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
    """The predictions for some sites of a graph, each of one layer; the network is run once if errors are limited."""
    limited = [site for site in sites if site.config.max_error is not None]
    wanted = {site.nodes[0]: read_by(site.nodes[0]) for site in limited}
    values = iter(pricing.natural(gm, [each for read in wanted.values() for each in read], _SEED) if limited else [])
    inputs = {node: [next(values) for _ in read] for node, read in wanted.items()}
    return [[_predicted(gm, site.nodes[0], site.config, inputs.get(site.nodes[0]), pricing)] for site in sites]


def _predicted(
    gm: fx.GraphModule, node: fx.Node, config: QuantizedConfig, read: list[Tensor] | None, pricing: Pricing
) -> Prediction:
    """What is predicted of one layer, by the fastest algorithm that keeps within the error; ``read``: what it reads."""
    cost = importlib.import_module(f"haste_compiler.methods.quantized.{pricing.kind}.cost")
    if is_attention(node):
        error = None if read is None or config.max_error is None else attention_error(node, read)
        return _attention(node, config, error, cost.attention_seconds(pricing.machine, node))
    x = None if read is None else read[0]
    geometry = geometry_of(node)
    batch = 1 if node.target is LINEAR else shape_of(node)[0]
    dense = cost.dense_seconds(pricing.machine, geometry, batch, config.winograd)
    seconds = {size: cost.seconds(pricing.machine, geometry, batch, size) for size in algorithms(geometry, config)}
    fastest = sorted(seconds, key=seconds.__getitem__)
    if x is None or config.max_error is None:
        best, changed = fastest[0], ""
    else:
        errors = _errors(gm, node, x, fastest, config.max_error)
        best = min(errors, key=errors.__getitem__)
        if errors[best] > config.max_error:
            return _refused(dense, errors[best], config)
        changed = f", which changes its output by {_percent(errors[best])}"
    by = f" by F({best}×{best})" if best else ""
    return Prediction(dense, Estimate(seconds[best], 0.0, None), setting=best, note=f"{by}{changed}")


def read_by(node: fx.Node) -> list[fx.Node]:
    """What a layer reads that isn't constant in it."""
    return attention_inputs(node) if is_attention(node) else [plain_call(node).x]


def _attention(node: fx.Node, config: QuantizedConfig, error: float | None, seconds: tuple[float, float]) -> Prediction:
    """What is predicted of attention, which takes so many seconds in float32 and in integers."""
    dense, own = seconds
    if error is None:
        return Prediction(dense, Estimate(own, 0.0, None))
    if config.max_error is not None and error > config.max_error:
        return _refused(dense, error, config)
    return Prediction(dense, Estimate(own, 0.0, None), note=f", which changes its output by {_percent(error)}")


def _refused(dense: float, error: float, config: QuantizedConfig) -> Prediction:
    refusal = f"rounding would change its output by {_percent(error)}, more than max_error={config.max_error}"
    return Prediction(dense, Estimate(math.inf, 0.0, None), refusal=refusal)


def _errors(gm: fx.GraphModule, node: fx.Node, x: Tensor, sizes: Sequence[int], most: float) -> dict[int, float]:
    """The errors of some algorithms in turn; only the last is at most ``most``, if any is."""
    call, geometry = plain_call(node), geometry_of(node)
    weight, nonnegative = get_tensor(gm, call.weight), is_nonnegative(call.x)
    if node.target is LINEAR:
        x, weight = x.reshape(-1, x.shape[-1]).T[None, :, None], weight[:, :, None, None]
    errors: dict[int, float] = {}
    for size in sizes:
        errors |= relative_errors(x, weight, geometry, [size], nonnegative=nonnegative)
        if errors[size] <= most:
            break
    return errors


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
