"""Predicting every layer that could be a HASTE convolution: the cost model, and probes where it could pay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx
from tvm.target import Target

from haste_compiler.cost.calibration import cost_model
from haste_compiler.cost.cuda import CudaCostModel
from haste_compiler.cost.images import dead_leaves
from haste_compiler.cost.model import CostModel
from haste_compiler.cost.probe import Draw, probe, probe_values
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.choose import Sharing, pays
from haste_compiler.methods.haste.found import Merging, mostly_zero
from haste_compiler.methods.haste.rewrite import joint_norm
from haste_compiler.methods.layers import Estimate, Prediction, configured_geometry

_LEAST_KEPT = 0.1
"""Nothing is probed where HASTE wouldn't pay even if no more than this share of the channels were left."""

_GATE_LIMIT = 0.93
"""Share of the dense time that a gate lets a call take: HASTE's is predicted some percent too short."""

_NATURAL = 3
"""Natural images that are averaged over: one may be smoother than most."""


class Predictor:
    """Predicts for ``choose_layers``, and runs the network only as long as some layer may still turn out worth it.

    Args:
        target: what the code is for.
        threads: threads that work on it.
        examples: the network's flat inputs; float images among them are replaced by made-up ones.
        model: the cost model; None: the CPU's, calibrated on this machine.
    """

    def __init__(
        self, target: Target, threads: int, examples: Sequence[Any], model: CostModel | CudaCostModel | None = None
    ) -> None:
        self._target, self._threads, self._examples, self._model = target, threads, examples, model

    def __call__(self, gm: fx.GraphModule, sharings: Sequence[Sharing]) -> list[list[Prediction]]:
        """The predictions for some convolutions of a graph."""
        model = self._model or cost_model(self._target, self._threads)
        layers = [_Layers(gm, sharing, model) for sharing in sharings]
        natural = [
            self._probe(gm, [each for each in layers if each.may_pay], dead_leaves, seed) for seed in range(_NATURAL)
        ]
        for each in natural[0]:
            each.expect(Merging.joined([found[each] for found in natural]))
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

    def __init__(self, gm: fx.GraphModule, sharing: Sharing, model: CostModel | CudaCostModel) -> None:
        self.first = sharing.nodes[0]
        self._config = sharing.config
        self._model = model
        self._forced = bool(sharing.forced)
        self._geometries = [configured_geometry(node, sharing.config) for node in sharing.nodes]
        self._batch = shape_of(self.first)[0]
        self._norm = joint_norm(gm, sharing.nodes, self._geometries[0].groups)
        best = self._estimates(mostly_zero(self._geometries[0], _LEAST_KEPT))
        winograd = sharing.config.winograd
        dense = [model.dense(geometry, self._batch, winograd) for geometry in self._geometries]
        gates = self._gates(dense)
        self.predictions = [
            Prediction(seconds, estimate, gate=gate) for seconds, estimate, gate in zip(dense, best, gates, strict=True)
        ]

    @property
    def may_pay(self) -> bool:
        """Whether nothing that is known speaks against them, or at least against one of them."""
        if self._forced:
            return any(pays([prediction], grouped=True) for prediction in self.predictions)
        return pays(self.predictions)

    def probe(self, x: Tensor) -> Merging:
        """What grouping finds in some patches of ``x``, their input."""
        return probe(x, self._geometries[0], self._norm, self._config, layer_name(self.first))

    def expect(self, found: Merging) -> None:
        """Estimate the times on images in which this was found."""
        pairs = zip(self.predictions, self._estimates(found), strict=True)
        self.predictions = [dataclasses.replace(prediction, natural=natural) for prediction, natural in pairs]

    def _estimates(self, found: Merging) -> list[Estimate]:
        planes, skip = self._config.num_hyperplanes, self._config.skip
        grouping = self._model.group(self._geometries[0], self._batch, planes, self._config.nonzeros, found)
        shares = [grouping, *(0.0 for _ in self._geometries[1:])]
        convolve = [self._model.convolve(geometry, self._batch, skip, found) for geometry in self._geometries]
        return [Estimate(g + c, g, found.kept) for g, c in zip(shares, convolve, strict=True)]

    def _gates(self, dense: Sequence[float]) -> list[tuple[float, ...]]:
        """The gate of each. Predicted times are near linear in what is found: small changes of it give the slopes.

        Patches of zeros cost the fixed part; then an eighth of the channels becomes of another kind.
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
