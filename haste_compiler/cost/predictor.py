"""Predicting every layer that could be a HASTE convolution: the cost model, and probes where it could pay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, fx
from tvm.target import Target

from haste_compiler.cost.calibration import cost_model
from haste_compiler.cost.images import dead_leaves, smooth_noise, white_noise
from haste_compiler.cost.merging import Merging, mostly_zero
from haste_compiler.cost.model import CostModel
from haste_compiler.cost.probe import Draw, probe, probe_values
from haste_compiler.passes.choose_layers import Sharing, pays
from haste_compiler.passes.graph import shape_of
from haste_compiler.passes.layers import Estimate, Prediction, configured_geometry, layer_name
from haste_compiler.passes.rewrite_haste import joint_norm

_LEAST_KEPT = 0.1
"""Nothing is probed where HASTE wouldn't pay even if no more than this share of the channels were left."""

_NATURAL = 3
"""Natural images that are averaged over: one may be smoother than most."""


class Predictor:
    """Predicts for ``choose_layers``, and runs the network only as long as some layer may still turn out worth it.

    Args:
        target: what the code is for.
        threads: threads that work on it.
        examples: the network's flat inputs; float images among them are replaced by made-up ones.
    """

    def __init__(self, target: Target, threads: int, examples: Sequence[Any]) -> None:
        self._target, self._threads, self._examples = target, threads, examples

    def __call__(self, gm: fx.GraphModule, sharings: Sequence[Sharing]) -> list[list[Prediction]]:
        """The predictions for some convolutions of a graph."""
        model = cost_model(self._target, self._threads)
        layers = [_Layers(gm, sharing, model) for sharing in sharings]
        natural = [
            self._probe(gm, [each for each in layers if each.may_pay], dead_leaves, seed) for seed in range(_NATURAL)
        ]
        for each in natural[0]:
            each.expect("natural", [Merging.joined([found[each] for found in natural])])
        noise = [
            self._probe(gm, [each for each in layers if each.may_pay], draw, 0) for draw in (smooth_noise, white_noise)
        ]
        for each in noise[0]:
            each.expect("noise", [found[each] for found in noise])
        return [each.predictions for each in layers]

    def _probe(self, gm: fx.GraphModule, layers: Sequence[_Layers], draw: Draw, seed: int) -> dict[_Layers, Merging]:
        """What grouping finds in each of some layers' inputs."""
        if not layers:
            return {}
        nodes = [each.first.all_input_nodes[0] for each in layers]
        inputs = probe_values(gm, nodes, self._examples, draw, seed)
        return {each: each.probe(x) for each, x in zip(layers, inputs, strict=True)}


class _Layers:
    """Convolutions that would share a grouping, and what is predicted for each."""

    def __init__(self, gm: fx.GraphModule, sharing: Sharing, model: CostModel) -> None:
        self.first, self._config, self._model, self._forced = (
            sharing.nodes[0],
            sharing.config,
            model,
            bool(sharing.forced),
        )
        self._geometries = [configured_geometry(node, sharing.config) for node in sharing.nodes]
        self._batch = shape_of(self.first)[0]
        self._norm = joint_norm(gm, sharing.nodes, self._geometries[0].groups)
        best = self._estimates([mostly_zero(self._geometries[0], _LEAST_KEPT)])
        dense = [model.dense(geometry, self._batch) for geometry in self._geometries]
        self.predictions = [Prediction(*each) for each in zip(dense, best, strict=True)]

    @property
    def may_pay(self) -> bool:
        """Whether nothing that is known speaks against them, or at least against one of them."""
        if self._forced:
            return any(pays([prediction], grouped=True) for prediction in self.predictions)
        return pays(self.predictions)

    def probe(self, x: Tensor) -> Merging:
        """What grouping finds in some patches of ``x``, their input."""
        return probe(x, self._geometries[0], self._norm, self._config, layer_name(self.first))

    def expect(self, kind: Literal["natural", "noise"], found: Sequence[Merging]) -> None:
        """Estimate the times on inputs of a kind, the worst of what was found."""
        changes = [{kind: estimate} for estimate in self._estimates(found)]
        pairs = zip(self.predictions, changes, strict=True)
        self.predictions = [dataclasses.replace(prediction, **change) for prediction, change in pairs]  # type: ignore[arg-type]

    def _estimates(self, found: Sequence[Merging]) -> list[Estimate]:
        def estimates(merging: Merging) -> list[Estimate]:
            planes, skip = self._config.num_hyperplanes, self._config.skip
            grouping = self._model.group(self._geometries[0], self._batch, planes, self._config.nonzeros, merging)
            shares = [grouping, *(0.0 for _ in self._geometries[1:])]
            convolve = [self._model.convolve(geometry, self._batch, skip, merging) for geometry in self._geometries]
            return [Estimate(g + c, g, merging.kept) for g, c in zip(shares, convolve, strict=True)]

        return max(map(estimates, found), key=lambda some: sum(estimate.seconds for estimate in some))
