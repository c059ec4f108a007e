"""Choosing for each layer how it is computed, so that most time is saved within an error of the network's outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from haste_compiler.methods.traced import Compute, Traced, probes

_PROBES = 8
"""Directions in which the outputs' error is looked at: by 8 a layer's share is known within 30 %."""

_SEED = 0

_RUNS = 4
"""How often choices are run, unless none of them keeps the limit yet."""

_USED = 0.85
"""Part of the limit that choices must use up, for the search for faster ones to end."""

_MARGIN = 0.95


@dataclass(frozen=True)
class Option:
    """A way to compute a layer that changes its output.

    Attributes:
        seconds: of one call.
        setting: how, as the method reads it.
        compute: what the layer returns then.
    """

    seconds: float
    setting: Any
    compute: Compute


@dataclass(frozen=True)
class Layer:
    """A layer that may stay as it is, or take one of some options.

    Attributes:
        node: in the graph.
        seconds: of one call as it is.
        options: the others; none: it stays.
    """

    node: fx.Node
    seconds: float
    options: Sequence[Option]


@dataclass(frozen=True)
class Budgeted:
    """What was chosen.

    Attributes:
        picked: for each layer the position of its option; None: it stays as it is.
        shares: for each layer and option the relative error of the outputs that it is predicted to make alone.
        error: relative error of the outputs with all choices made, as it was found by running them.
    """

    picked: Sequence[int | None]
    shares: Sequence[Sequence[float]]
    error: float


def within_output_error(traced: Traced, layers: Sequence[Layer], limit: float) -> Budgeted:
    """Choose options so that most time is saved while the outputs' relative error stays within a limit.

    What an option changes is computed on what its layer reads in ``traced``; what that changes the outputs by is
    predicted by backward passes (``methods.traced``). Squared errors of layers are added as if they were independent.
    What is chosen is run, and the sum corrected by what is found, until the limit is kept and most of it used.

    Args:
        traced: a run of the network with these layers' nodes, in this order.
        layers: to choose for.
        limit: of the relative error (2-norms), the largest of all outputs, at least 0.
    """
    squares = _squares(traced, layers)
    best: Sequence[int | None] = [None] * len(layers)
    last: Sequence[int | None] | None = None
    error, allowed, runs = 0.0, limit**2, 0
    while True:
        picked = _picked(layers, squares, allowed)
        if picked == last or all(each is None for each in picked):
            break
        last, runs = picked, runs + 1
        found = traced.error(traced.run_with(_computes(layers, picked)))
        total = sum(squares[at][each] for at, each in enumerate(picked) if each is not None)
        if found <= limit:
            if _saved(layers, picked) > _saved(layers, best):
                best, error = picked, found
            if found >= _USED * limit:
                break
        if runs >= _RUNS and any(each is not None for each in best):
            break
        scaled = _MARGIN * total * (limit / found) ** 2 if found else math.inf
        # Less than what was too much, more than what was not enough: it can't come back to the same.
        allowed = max(scaled, total) if found <= limit else min(scaled, math.nextafter(total, 0.0))
    return Budgeted(best, [[math.sqrt(each) for each in row] for row in squares], error)


def _squares(traced: Traced, layers: Sequence[Layer]) -> list[list[float]]:
    """The squared relative error of the outputs that each option alone is predicted to make."""
    squares = [[0.0] * len(layer.options) for layer in layers]
    gradients = [traced.pulled_back(parts) for parts in probes(traced.outputs, _PROBES, _SEED)]
    with torch.no_grad():
        for at, layer in enumerate(layers):
            exact = traced.values[layer.node]
            for number, option in enumerate(layer.options):
                change = option.compute(traced.values) - exact
                shifts = [float((change * probe[at]).sum(dtype=torch.float64)) for probe in gradients]
                found = sum(shift**2 for shift in shifts)
                squares[at][number] = found if math.isfinite(found) else math.inf
    return squares


def _picked(layers: Sequence[Layer], squares: Sequence[Sequence[float]], allowed: float) -> list[int | None]:
    """The options that save most time while their squared errors add up to no more than is allowed.

    Each layer has steps, from as it is to its fastest option, along the lower convex hull of its squared errors over
    the seconds that are saved. Steps of all layers are taken by rising error for each second, those that fit: the
    greedy solution of the multiple-choice knapsack problem (Sinha and Zoltners, 1979), and for allowances between two
    steps that of its Lagrangian relaxation.
    """
    steps = sorted(
        (slope, at, number) for at, layer in enumerate(layers) for slope, number in _hull(layer, squares[at])
    )
    picked: list[int | None] = [None] * len(layers)
    left = allowed
    closed = set[int]()
    for _, at, number in steps:
        before = picked[at]
        more = squares[at][number] - (0.0 if before is None else squares[at][before])
        if at in closed or more > left:
            closed.add(at)
            continue
        picked[at], left = number, left - more
    return picked


def _hull(layer: Layer, squares: Sequence[float]) -> Iterator[tuple[float, int]]:
    """Options on the lower convex hull of squared error over seconds saved, with the slope that leads to each."""
    saved, error = 0.0, 0.0
    while True:
        slopes = [
            ((squares[number] - error) / (layer.seconds - option.seconds - saved), number)
            for number, option in enumerate(layer.options)
            if layer.seconds - option.seconds > saved and math.isfinite(squares[number])
        ]
        if not slopes:
            return
        slope, number = min(slopes)
        yield slope, number
        saved, error = layer.seconds - layer.options[number].seconds, squares[number]


def _saved(layers: Sequence[Layer], picked: Sequence[int | None]) -> float:
    pairs = zip(layers, picked, strict=True)
    return sum(layer.seconds - layer.options[each].seconds for layer, each in pairs if each is not None)


def _computes(layers: Sequence[Layer], picked: Sequence[int | None]) -> dict[fx.Node, Compute]:
    pairs = zip(layers, picked, strict=True)
    return {layer.node: layer.options[each].compute for layer, each in pairs if each is not None}
