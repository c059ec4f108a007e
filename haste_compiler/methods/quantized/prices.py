"""Predicting every layer that could be computed in integers: how long each algorithm takes, and what it changes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

from torch import Tensor, fx

from haste_compiler.graph.nodes import get_tensor, shape_of
from haste_compiler.methods.method import Pricing, Site
from haste_compiler.methods.prediction import Estimate, Prediction
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.errors import relative_errors
from haste_compiler.methods.quantized.reference.rounding import NARROW_BITS
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.sites import algorithms, geometry_of, plain_call
from haste_compiler.ops.linear import LINEAR

_SEED = 0


def price(gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
    """The predictions for some sites of a graph, each of one layer; the network is run once if errors are limited."""
    limited = [site for site in sites if site.config.max_error is not None]
    read = pricing.natural(gm, [plain_call(site.nodes[0]).x for site in limited], _SEED) if limited else []
    inputs = dict(zip((site.nodes[0] for site in limited), read, strict=True))
    return [[_predicted(gm, site.nodes[0], site.config, inputs.get(site.nodes[0]), pricing)] for site in sites]


def _predicted(
    gm: fx.GraphModule, node: fx.Node, config: QuantizedConfig, x: Tensor | None, pricing: Pricing
) -> Prediction:
    """What is predicted of one layer, by the fastest algorithm that keeps within the error; ``x``: what it reads."""
    cost = importlib.import_module(f"haste_compiler.methods.quantized.{pricing.kind}.cost")
    geometry = geometry_of(node)
    batch = 1 if node.target is LINEAR else shape_of(node)[0]
    dense = cost.dense_seconds(pricing.machine, geometry, batch, config.winograd)
    tried = list(algorithms(geometry, config))
    if config.narrow and cost.multiplies_narrow_faster(pricing.machine):
        tried += [each._replace(bits=NARROW_BITS) for each in tried]
    seconds = {each: cost.seconds(pricing.machine, geometry, batch, each) for each in tried}
    fastest = sorted(seconds, key=seconds.__getitem__)
    if x is None or config.max_error is None:
        best, changed = fastest[0], ""
    else:
        errors = _errors(gm, node, x, fastest, config.max_error)
        best = min(errors, key=errors.__getitem__)
        if errors[best] > config.max_error:
            refusal = (
                f"rounding would change its output by {_percent(errors[best])}, more than max_error={config.max_error}"
            )
            return Prediction(dense, Estimate(math.inf, 0.0, None), refusal=refusal)
        changed = f", which changes its output by {_percent(errors[best])}"
    return Prediction(
        dense, Estimate(seconds[best], 0.0, None), setting=best.setting, note=f"{best.described()}{changed}"
    )


def _errors(
    gm: fx.GraphModule, node: fx.Node, x: Tensor, tried: Sequence[Algorithm], most: float
) -> dict[Algorithm, float]:
    """The errors of some algorithms in turn; only the last is at most ``most``, if any is."""
    call, geometry = plain_call(node), geometry_of(node)
    weight, nonnegative = get_tensor(gm, call.weight), is_nonnegative(call.x)
    if node.target is LINEAR:
        x, weight = x.reshape(-1, x.shape[-1]).T[None, :, None], weight[:, :, None, None]
    errors: dict[Algorithm, float] = {}
    for each in tried:
        errors |= relative_errors(x, weight, geometry, [each], nonnegative=nonnegative)
        if errors[each] <= most:
            break
    return errors


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
