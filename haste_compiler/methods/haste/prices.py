"""Predicting every layer that could be a HASTE convolution: the cost model, and probes where it could pay."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.choose import pays
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.found import Merging, mostly_zero
from haste_compiler.methods.haste.probe import probe
from haste_compiler.methods.haste.rewrite import joint_norm
from haste_compiler.methods.haste.sites import configured_geometry
from haste_compiler.methods.method import Method, Pricing, Site
from haste_compiler.methods.prediction import Estimate, Prediction
from haste_compiler.ops.conv2d import ConvCall

_LEAST_KEPT = 0.1
"""Nothing is probed where HASTE wouldn't pay even if no more than this share of the channels were left."""

_GATE_LIMIT = 0.93
"""Share of the dense time that a gate lets a call take: HASTE's is predicted some percent too short."""

_NATURAL = 3
"""Natural images that are averaged over: one may be smoother than most."""


_DOUBT = 4 / 3
"""By what factor HASTE's share of the dense time may be overestimated with numbers of another machine."""


def price(gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
    """The predictions for some sites of a graph; the network is run only as long as one may still turn out worth it.

    A machine isn't measured where that could change nothing: where no site is worth it by the guess by far.
    """
    found: dict[fx.Node, Merging] = {}
    guess = pricing.guess
    if guess is not None:
        guessed = _expected(gm, sites, pricing, guess, found, _DOUBT)
        if not any(each.may_pay(_DOUBT) for each in guessed):
            return [each.predictions for each in guessed]
    return [each.predictions for each in _expected(gm, sites, pricing, pricing.model, found)]


def _expected(
    gm: fx.GraphModule,
    sites: Sequence[Site],
    pricing: Pricing,
    model: Any,
    found: dict[fx.Node, Merging],
    doubt: float = 1.0,
) -> list[_Layers]:
    """The layers of some sites, priced by ``model``; ``found`` is what grouping finds in natural images, and grows."""
    layers = [_Layers(gm, site, pricing.kind, model) for site in sites]
    candidates = [each for each in layers if each.may_pay(doubt)]
    unknown = [each for each in candidates if each.first not in found]
    natural = [_probe(gm, unknown, pricing, seed) for seed in range(_NATURAL)]
    found.update((each.first, Merging.joined([image[each] for image in natural])) for each in unknown)
    for each in candidates:
        each.expect(found[each.first])
    return layers


def _probe(gm: fx.GraphModule, layers: Sequence[_Layers], pricing: Pricing, seed: int) -> dict[_Layers, Merging]:
    """What grouping finds in each of some layers' inputs."""
    if not layers:
        return {}
    inputs = pricing.natural(gm, [ConvCall.of(each.first).x for each in layers], seed)
    return {each: each.probe(x) for each, x in zip(layers, inputs, strict=True)}


class _Layers:
    """Convolutions that would share a grouping, and what is predicted for each."""

    def __init__(self, gm: fx.GraphModule, site: Site, kind: str, model: Any) -> None:
        self.first = site.nodes[0]
        self._config: HasteConfig = site.config
        self._model = model
        self._cost = importlib.import_module(f"haste_compiler.methods.haste.{kind}.cost")
        self._forced = bool(site.forced)
        self._geometries = [configured_geometry(node, site.config) for node in site.nodes]
        self._batch = shape_of(self.first)[0]
        self._norm = joint_norm(gm, site.nodes, self._geometries[0].groups)
        best = self._estimates(mostly_zero(self._geometries[0], _LEAST_KEPT))
        winograd = self._config.winograd
        dense = [self._model.dense(geometry, self._batch, winograd) for geometry in self._geometries]
        gates = self._gates(dense)
        self.predictions = [
            Prediction(seconds, estimate, gate=gate) for seconds, estimate, gate in zip(dense, best, gates, strict=True)
        ]

    def may_pay(self, doubt: float) -> bool:
        """Whether nothing that is known speaks against them, or at least against one of them.

        Args:
            doubt: by what factor times under the method may be overestimated.
        """
        most_time = doubt * Method.MOST_TIME
        if self._forced:
            return any(pays([prediction], most_time, shared=True) for prediction in self.predictions)
        return pays(self.predictions, most_time)

    def probe(self, x: Tensor) -> Merging:
        """What grouping finds in some patches of ``x``, their input."""
        return probe(x, self._geometries[0], self._norm, self._config, layer_name(self.first))

    def expect(self, found: Merging) -> None:
        """Estimate the times on images in which this was found."""
        pairs = zip(self.predictions, self._estimates(found), strict=True)
        self.predictions = [dataclasses.replace(prediction, natural=natural) for prediction, natural in pairs]

    def _estimates(self, found: Merging) -> list[Estimate]:
        grouping = self._cost.group(self._model, self._geometries[0], self._batch, self._config, found)
        shares = [grouping, *(0.0 for _ in self._geometries[1:])]
        convolve = [
            self._cost.convolve(self._model, geometry, self._batch, self._config, found)
            for geometry in self._geometries
        ]
        return [Estimate(g + c, g, found.kept) for g, c in zip(shares, convolve, strict=True)]

    def _gates(self, dense: Sequence[float]) -> list[tuple[float, ...]]:
        """The gate of each: what a patch may cost on average beyond a fixed part, then what each unit of its counts
        costs (singles, groups, members, zeros, flats, merges), in microseconds.

        Predicted times are near linear in what is found: small changes of it give the slopes. Patches of zeros cost the
        fixed part; then an eighth of the channels becomes of another kind.
        """
        nothing = mostly_zero(self._geometries[0], 0.0)
        step = self._geometries[0].in_channels / self._geometries[0].groups / 8
        fixed = [estimate.seconds for estimate in self._estimates(nothing)]
        slopes = []
        for count in range(nothing.counts.shape[1]):
            counts = nothing.counts.copy()
            counts[:, count] += step
            changed = self._estimates(Merging(counts, nothing.on_border))
            slopes.append([max(0.0, e.seconds - f) / step for e, f in zip(changed, fixed, strict=True)])
        return [
            (1e6 * (_GATE_LIMIT * seconds - f), *(1e6 * slope for slope in each))
            for seconds, f, *each in zip(dense, fixed, *slopes, strict=True)
        ]
