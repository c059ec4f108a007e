"""Predicting every layer that could multiply in bfloat16: how long each algorithm takes, and what it changes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

from torch import Tensor, fx

from haste_compiler.graph.nodes import get_tensor, shape_of
from haste_compiler.methods.bfloat16.config import BFloat16Config
from haste_compiler.methods.bfloat16.errors import relative_error
from haste_compiler.methods.method import Pricing, Site
from haste_compiler.methods.prediction import Estimate, Prediction
from haste_compiler.methods.quantized.sites import geometry_of, plain_call, tile_sizes
from haste_compiler.ops.linear import LINEAR

_SEED = 0


def price(gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
    """The predictions for some sites of a graph, each of one layer; the network is run once if errors are limited."""
    limited = [site for site in sites if site.config.max_error is not None]
    read = pricing.natural(gm, [plain_call(site.nodes[0]).x for site in limited], _SEED) if limited else []
    inputs = dict(zip((site.nodes[0] for site in limited), read, strict=True))
    return [[_predicted(gm, site.nodes[0], site.config, inputs.get(site.nodes[0]), pricing)] for site in sites]


def _predicted(
    gm: fx.GraphModule, node: fx.Node, config: BFloat16Config, x: Tensor | None, pricing: Pricing
) -> Prediction:
    """What is predicted of one layer, by the fastest algorithm that keeps within the error; ``x``: what it reads."""
    cost = importlib.import_module(f"haste_compiler.methods.bfloat16.{pricing.kind}.cost")
    geometry = geometry_of(node)
    batch = 1 if node.target is LINEAR else shape_of(node)[0]
    dense = cost.dense_seconds(pricing.machine, geometry, batch, config.winograd)
    sizes = tile_sizes(geometry, config)
    seconds = {size: cost.seconds(pricing.machine, geometry, batch, size) for size in sizes}
    fastest = sorted(seconds, key=seconds.__getitem__)
    best, changed = fastest[0], ""
    if x is not None and config.max_error is not None:
        errors = _errors(gm, node, x, fastest, config.max_error)
        best = min(errors, key=errors.__getitem__)
        if errors[best] > config.max_error:
            found = f"rounding would change its output by {_percent(errors[best])}"
            refusal = f"{found}, more than max_error={config.max_error}"
            return Prediction(dense, Estimate(math.inf, 0.0, None), refusal=refusal)
        changed = f", which changes its output by {_percent(errors[best])}"
    by = f" by F({best}×{best})" if best else ""
    return Prediction(dense, Estimate(seconds[best], 0.0, None), setting=best, note=f"{by}{changed}")


def _errors(gm: fx.GraphModule, node: fx.Node, x: Tensor, sizes: Sequence[int], most: float) -> dict[int, float]:
    """The errors of some algorithms in turn; only the last is at most ``most``, if any is."""
    weight, geometry = get_tensor(gm, plain_call(node).weight), geometry_of(node)
    if node.target is LINEAR:
        x, weight = x.reshape(-1, x.shape[-1]).T[None, :, None], weight[:, :, None, None]
    errors: dict[int, float] = {}
    for size in sizes:
        errors[size] = relative_error(x, weight, geometry, size)
        if errors[size] <= most:
            break
    return errors


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
