"""Predicting every layer that could be a HASTE convolution: the cost model, and a probe where it could pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from tvm.target import Target

from haste_compiler.cost.calibration import cost_model
from haste_compiler.cost.merging import Merging, mostly_zero
from haste_compiler.cost.model import CostModel
from haste_compiler.cost.probe import probe, probe_inputs, values_of
from haste_compiler.passes.choose_layers import Sharing
from haste_compiler.passes.graph import shape_of
from haste_compiler.passes.layers import Prediction, configured_geometry, layer_name
from haste_compiler.passes.rewrite_haste import joint_norm

MARGIN = 0.1
"""Part of the dense time by which HASTE must be predicted to be faster."""

_LEAST_KEPT = 0.1
"""Nothing is probed where HASTE wouldn't pay even if no more than this share of the channels were left."""


class Predictor:
    """Predicts for ``choose_layers``.

    Args:
        target: what the code is for.
        threads: threads that work on it.
        examples: the network's flat inputs; float images among them are replaced by a made-up one.
    """

    def __init__(self, target: Target, threads: int, examples: Sequence[Any]) -> None:
        self._target, self._threads, self._examples = target, threads, examples

    def __call__(self, gm: fx.GraphModule, groups: Sequence[Sharing]) -> list[list[Prediction]]:
        """The predictions for some convolutions of a graph."""
        model = cost_model(self._target, self._threads)
        predicted = [self._predict(model, group, None) for group in groups]
        worth = [i for i, predictions in enumerate(predicted) if _could_pay(groups[i], predictions)]
        if worth:
            inputs = [groups[i].nodes[0].all_input_nodes[0] for i in worth]
            with torch.no_grad():
                for i, x in zip(worth, values_of(gm, inputs, probe_inputs(self._examples)), strict=True):
                    first = groups[i].nodes[0]
                    geometry = configured_geometry(first, groups[i].config)
                    norm = joint_norm(gm, groups[i].nodes, geometry.groups)
                    merging = probe(x, geometry, norm, groups[i].config, layer_name(first))
                    predicted[i] = self._predict(model, groups[i], merging)
        return predicted

    def _predict(self, model: CostModel, group: Sharing, merging: Merging | None) -> list[Prediction]:
        """Predictions for what was found, or for the best that could be."""
        predictions: list[Prediction] = []
        config = group.config
        for node in group.nodes:
            geometry, batch = configured_geometry(node, config), shape_of(node)[0]
            found = merging or mostly_zero(geometry, _LEAST_KEPT)
            grouping = 0.0 if predictions else model.group(geometry, batch, config.num_hyperplanes, found)
            dense = model.dense(geometry, batch)
            haste = grouping + model.convolve(geometry, batch, config.skip, found)
            limit = (1 - MARGIN) * dense
            predictions.append(Prediction(dense, haste, grouping, found.kept, limit, merging is not None))
        return predictions


def _could_pay(group: Sharing, predictions: Sequence[Prediction]) -> bool:
    """Whether the best case is worth a closer look; where the grouping is forced, its time is spent anyway."""
    spent = sum(p.group_seconds for p in predictions) if group.forced else 0.0
    return sum(p.haste_seconds for p in predictions) - spent <= sum(p.limit_seconds for p in predictions)
