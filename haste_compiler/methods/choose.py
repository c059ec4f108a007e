"""Which layers every method takes: those that are predicted to be faster for it. A node has one owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from haste_compiler.methods.configs import Configs
from haste_compiler.methods.method import Method, Site
from haste_compiler.methods.prediction import CHOICE, Choice, Prediction

Predict = Callable[[fx.GraphModule, Sequence[Site]], Sequence[Sequence[Prediction]]]
"""Predicts, for sites of one method, the times of each layer."""


def choose_layers(gm: fx.GraphModule, configs: Configs, predict: Predict | None) -> fx.GraphModule:
    """Decide for every layer that a method could take, and write the decision to its node's ``meta``.

    Methods are asked in order; what one takes is none of the next one's sites. Layers that share something are judged
    together: it pays, or not, for all of them at once. Where one of them is forced (``cost_model=False``) what they
    share is there anyway, and each of the others is judged by itself.

    Args:
        gm: a graph that the passes went over; only ``meta`` changes.
        configs: which layers are eligible, and for which of them predictions decide.
        predict: the predictions; None: every eligible layer is taken.
    """
    for method, config in configs:
        _choose(gm, method, method.sites(gm, config), predict)
    return gm


def _choose(gm: fx.GraphModule, method: Method, sites: Sequence[Site], predict: Predict | None) -> None:
    asked = [site for site in sites if predict is not None and len(site.forced) < len(site.nodes)]
    found = predict(gm, asked) if predict is not None and asked else []
    predicted = asked if found else []
    for site in sites:
        if site not in predicted:
            for node in site.nodes:
                node.meta[CHOICE] = Choice(method.NAME, True)
    for site, predictions in zip(predicted, found, strict=True):
        together = pays(predictions, method.MOST_TIME)
        for node, prediction in zip(site.nodes, predictions, strict=True):
            alone = pays([prediction], method.MOST_TIME, shared=True) if site.forced else together
            taken = alone or node in site.forced
            # Of a node that nobody takes, the first method's reason is told.
            if taken or CHOICE not in node.meta:
                node.meta[CHOICE] = Choice(method.NAME, taken, prediction)


def pays(predictions: Sequence[Prediction], most_time: float, shared: bool = False) -> bool:
    """Whether layers that share something are worth it: faster in the best case and on natural images by more than the
    predictions are wrong. What wasn't predicted doesn't speak against it.

    Args:
        predictions: of each of them.
        most_time: share of the plain time that the method may take.
        shared: what they share is there anyway, and costs nothing.
    """
    if any(prediction.refusal for prediction in predictions):
        return False
    dense = sum(prediction.dense_seconds for prediction in predictions)
    for estimates in zip(*(p.estimates for p in predictions), strict=True):
        known = [estimate for estimate in estimates if estimate is not None]
        if sum(e.seconds - (e.shared if shared else 0) for e in known) > most_time * dense:
            return False
    return True
