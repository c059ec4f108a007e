"""Predicting every layer that could be computed in integers: how long each algorithm takes, and what it changes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, fx

from haste_compiler.graph.nodes import get_tensor, shape_of
from haste_compiler.methods.method import Pricing, Site
from haste_compiler.methods.output_budget import Layer, Option, within_output_error
from haste_compiler.methods.prediction import Estimate, Prediction
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.attention import attention_error, attention_inputs, is_attention
from haste_compiler.methods.quantized.bits import NARROW_BITS
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.errors import relative_errors
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.simulated import simulate
from haste_compiler.methods.quantized.sites import algorithms, geometry_of, plain_call
from haste_compiler.methods.quantized.ternary import ternary_filters
from haste_compiler.ops.linear import LINEAR

_SEED = 0


def price(gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing, most_time: float) -> list[list[Prediction]]:
    """The predictions for some sites of a graph, each of one layer; the network is run once if errors are limited.

    Args:
        gm: the graph.
        sites: in order.
        pricing: predicts times.
        most_time: share of the plain time that a layer may take.
    """
    limit = next((site.config.max_output_error for site in sites), None)
    if limit is not None:
        return [[each] for each in _within_output_error(gm, sites, pricing, most_time, limit)]
    limited = [site for site in sites if site.config.max_error is not None]
    wanted = {site.nodes[0]: read_by(site.nodes[0]) for site in limited}
    values = iter(pricing.natural(gm, [each for read in wanted.values() for each in read], _SEED) if limited else [])
    inputs = {node: [next(values) for _ in read] for node, read in wanted.items()}
    return [[_predicted(site, gm, inputs.get(site.nodes[0]), pricing)] for site in sites]


def read_by(node: fx.Node) -> list[fx.Node]:
    """What a layer reads that isn't constant in it."""
    return attention_inputs(node) if is_attention(node) else [plain_call(node).x]


def _predicted(site: Site, gm: fx.GraphModule, read: list[Tensor] | None, pricing: Pricing) -> Prediction:
    """What is predicted of one layer by its own error; ``read``: what it reads, where the error is limited."""
    (node,) = site.nodes
    if is_attention(node):
        error = None if read is None else attention_error(node, read)
        return _attention(site, error, pricing)
    return _Layer(gm, site, pricing).fastest(None if read is None else read[0])


def _attention(site: Site, error: float | None, pricing: Pricing) -> Prediction:
    """What is predicted of attention, of which rounding changes so much."""
    dense, own = _cost_of(pricing).attention_seconds(pricing.machine, site.nodes[0])
    most = site.config.max_error
    if error is not None and most is not None and error > most:
        return Prediction(dense, Estimate(math.inf, 0.0, None), refusal=_too_much(error, site.config))
    note = "" if error is None else f", which changes its output by {_percent(error)}"
    return Prediction(dense, Estimate(own, 0.0, None), note=note)


def _cost_of(pricing: Pricing) -> Any:
    """The module that knows what layers take on the machine."""
    return importlib.import_module(f"haste_compiler.methods.quantized.{pricing.kind}.cost")


class _Layer:
    """What is predicted of one layer.

    Attributes:
        node: the plain layer.
        config: the layer's.
        dense: seconds of one call in float32.
        seconds: of one call by each algorithm, the fastest first.
    """

    def __init__(self, gm: fx.GraphModule, site: Site, pricing: Pricing) -> None:
        cost = _cost_of(pricing)
        self.node, self.config = site.nodes[0], site.config
        geometry = geometry_of(self.node)
        batch = 1 if self.node.target is LINEAR else shape_of(self.node)[0]
        self.dense = cost.dense_seconds(pricing.machine, geometry, batch, self.config.winograd)
        self._weight = get_tensor(gm, plain_call(self.node).weight)
        tried = list(algorithms(geometry, self.config, ternary=ternary_filters(self._weight) is not None))
        if self.config.bits is None and cost.multiplies_narrow_faster(pricing.machine):
            # Ternary filters are multiplied faster still, by inputs of 8 bits.
            tried += [each._replace(bits=NARROW_BITS) for each in tried if not each.ternary]
        seconds = {each: cost.seconds(pricing.machine, geometry, batch, each) for each in tried}
        self.seconds = {each: seconds[each] for each in sorted(tried, key=seconds.__getitem__)}

    def fastest(self, x: Tensor | None) -> Prediction:
        """By the fastest algorithm that keeps within the layer's own error; ``x``: what it reads."""
        if x is None or self.config.max_error is None:
            return self.by(next(iter(self.seconds)))
        errors: dict[Algorithm, float] = {}
        for each, error in self._errors(x, self.seconds):
            if error <= self.config.max_error:
                return self.by(each, f", which changes its output by {_percent(error)}")
            errors[each] = error
        return self.refused(_too_much(min(errors.values()), self.config))

    def within(self, x: Tensor, most_time: float) -> Mapping[Algorithm, float]:
        """The algorithms that are fast enough, keep within the layer's own error and are closer than faster ones; and
        that error."""
        most = math.inf if self.config.max_error is None else self.config.max_error
        found: dict[Algorithm, float] = {}
        fast = [each for each, seconds in self.seconds.items() if seconds <= most_time * self.dense]
        for each, error in self._errors(x, fast):
            if error <= most and error < min(found.values(), default=math.inf):
                found[each] = error
        return found

    def by(
        self, algorithm: Algorithm, changes: str = "", share: float | None = None, all_: float | None = None
    ) -> Prediction:
        """The layer is computed by an algorithm."""
        return Prediction(
            self.dense,
            Estimate(self.seconds[algorithm], 0.0, None),
            setting=algorithm.setting,
            note=f"{algorithm.described()}{changes}",
            output_error=share,
            network_error=all_,
        )

    def refused(self, why: str) -> Prediction:
        """The layer must stay in float32."""
        return Prediction(self.dense, Estimate(math.inf, 0.0, None), refusal=why)

    def _errors(self, x: Tensor, algorithms: Iterable[Algorithm]) -> Iterator[tuple[Algorithm, float]]:
        weight, geometry, nonnegative = self._weight, geometry_of(self.node), is_nonnegative(plain_call(self.node).x)
        if self.node.target is LINEAR:
            x, weight = x.reshape(-1, x.shape[-1]).T[None, :, None], weight[:, :, None, None]
        return relative_errors(x, weight, geometry, algorithms, nonnegative=nonnegative)


def _within_output_error(
    gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing, most_time: float, limit: float
) -> list[Prediction]:
    """The predictions where the outputs' error is limited: layers share it. What attention does to them isn't known."""
    layers = [_Layer(gm, site, pricing) for site in sites if not is_attention(site.nodes[0])]
    traced = pricing.traced(gm, [layer.node for layer in layers], _SEED)
    errors = [layer.within(traced.values[plain_call(layer.node).x], most_time) for layer in layers]
    offered = [
        Layer(
            layer.node,
            layer.dense,
            [Option(layer.seconds[each], each, partial(simulate, layer.node, each)) for each in own],
        )
        for layer, own in zip(layers, errors, strict=True)
    ]
    found = within_output_error(traced, offered, limit)
    predictions = []
    for layer, own, options, shares, picked in zip(layers, errors, offered, found.shares, found.picked, strict=True):
        if picked is not None:
            algorithm, share = options.options[picked].setting, shares[picked]
            changes = f", which changes its output by {_percent(own[algorithm])} and the network's by {_percent(share)}"
            predictions.append(layer.by(algorithm, changes, share, found.error))
        elif shares:
            least = _percent(min(shares))
            predictions.append(
                layer.refused(f"it would change the network's output by {least}: beyond max_output_error={limit:g}")
            )
        else:
            predictions.append(layer.fastest(traced.values[plain_call(layer.node).x]))
    others = iter(predictions)
    return [_without_limit(site, pricing) if is_attention(site.nodes[0]) else next(others) for site in sites]


def _without_limit(site: Site, pricing: Pricing) -> Prediction:
    """Attention, which stays in float32 where the outputs' error is limited."""
    dense, _ = _cost_of(pricing).attention_seconds(pricing.machine, site.nodes[0])
    why = "what it does to the network's outputs isn't estimated: max_output_error leaves it in float32"
    return Prediction(dense, Estimate(math.inf, 0.0, None), refusal=why)


def _too_much(error: float, config: QuantizedConfig) -> str:
    return f"rounding would change its output by {_percent(error)}, more than max_error={config.max_error}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
