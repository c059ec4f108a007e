"""``search``: a configuration within a budget, layer by layer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from haste_compiler.codegen.target import TargetLike
from haste_compiler.errors import InputError
from haste_compiler.graph.arguments import Model, as_module
from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.methods.configs import ConfigLike
from haste_compiler.progress import Tick
from haste_compiler.progress import progress as shown
from haste_compiler.search.bound import check_enough, images_needed
from haste_compiler.search.budget import Budget, BudgetError, one_budget
from haste_compiler.search.combiner import Combiner
from haste_compiler.search.explorer import Explorer
from haste_compiler.search.images import Images, read_rows
from haste_compiler.search.options import Options, searched_configs
from haste_compiler.search.predict import Predictor
from haste_compiler.search.quality import calibrated_temperature
from haste_compiler.search.result import ParetoPoint, SearchResult
from haste_compiler.search.runner import Measured, Runner, kept
from haste_compiler.search.synthetic import COUNT, draw_images
from haste_compiler.validation.batches import Labels
from haste_compiler.validation.timing import use_threads


def search(  # noqa: PLR0913  (a user's options, each by name)
    model: Model,
    inputs: Any = None,
    *,
    labels: Labels = None,
    input_shape: Sequence[int] | None = None,
    max_accuracy_drop: float | None = None,
    min_agreement: float | None = None,
    max_output_error: float | None = None,
    target_macs: float | None = None,
    target_latency: float | None = None,
    save: Literal["macs", "time"] = "macs",
    target: TargetLike = "llvm",
    threads: int | None = None,
    config: ConfigLike = None,
    patches: Sequence[Any] | None = None,
    batch_size: int = 64,
    confidence: float = 0.9,
    seed: int = 0,
    progress: bool = True,
) -> SearchResult:
    """Find the settings of each layer's method, and which layers stay dense, within a budget.

    Each layer is driven through a ladder of settings alone, which gives its damage and its savings; the layers' points
    are then combined so that the predicted damage is least for what is saved; and combinations around the budget are
    run on images that none of this was measured on, until the one that saves most within the budget is found.

    Exactly one budget is given:

    - ``max_accuracy_drop``: of top-1, 0.01 being one point. Without labels, the drop is estimated as the mean of
      ``p(original's class) - p(compressed network's class)`` with the original's own probabilities. It is too high
      where they are over-confident, as those of most trained networks are, and too low where they are under-confident
      (label smoothing, mixup); the disagreement, ``min_agreement``, bounds the drop whatever they are. With labels, the
      probabilities are calibrated on them, and the drop on the labels must keep the limit too.
    - ``min_agreement``: least part of the images whose top-1 class is the original's.
    - ``max_output_error``: largest relative error of the outputs (2-norm).
    - ``target_macs``: least net reduction of multiply-adds, 0 to 1; the damage is made as small as it can be.
    - ``target_latency``: most milliseconds for a call with one image; likewise.

    Args:
        model: as for ``compile``.
        inputs: images like those that the network will see, some hundreds: a tensor with the images in rows, a tuple of
            such, or an iterable of batches. None: images are made up, from noise and what the batch norms remember of
            the training images. Savings depend on the images, so use real ones where there are any.
        labels: their classes, or True where each batch's last item is its labels; may be left out.
        input_shape: (C, H, W) of one image, if there are no ``inputs``.
        max_accuracy_drop: see above.
        min_agreement: see above.
        max_output_error: see above.
        target_macs: see above.
        target_latency: see above.
        save: what a budget on quality is spent on: multiply-adds, or the time of a call with one image as this machine
            measures it. A layer that no method makes faster then stays dense.
        target: as for ``compile``.
        threads: as for ``compile``.
        config: as for ``compile``: which methods are searched, and what the search doesn't decide. Of HASTE merge,
            nonzeros, seed and ``min_channels`` are taken from it. Layers that it keeps dense stay so.
        patches: what is compiled in of a method and tried, patch sizes for HASTE, each for a compilation and as many
            runs as there are layers and settings; None: what the method suggests, 2 and 4 for HASTE, and 8 and 4 where
            time is saved.
        batch_size: most images a call.
        confidence: with which unseen images keep a budget on quality, one-sided, 0.5 to 0.999.
        seed: of made-up images, and of what the methods draw at random unless ``config`` is given: HASTE's hyperplanes.
        progress: show on standard error what is being done: a bar, or a line a phase where that is no terminal.

    Returns:
        The configuration, and all that was measured. The same arguments give the same configuration, except where
        time is saved.

    Raises:
        InputError: no budget or several, an argument is out of range, ``config`` has a method that has nothing to try,
            or so many images can't show that a budget is kept; the message says how many can.
        BudgetError: no configuration reaches ``target_macs`` or ``target_latency``; its ``result`` has the nearest.
        CaptureError, UnsupportedOperatorError, TargetError, ConfigError: as ``compile``.
    """
    began = time.perf_counter()
    budget = one_budget(
        max_accuracy_drop=max_accuracy_drop,
        min_agreement=min_agreement,
        max_output_error=max_output_error,
        target_macs=target_macs,
        target_latency=target_latency,
    )
    network: nn.Module = as_module(model)
    if not isinstance(network, nn.Module):
        raise InputError(f"model is {type(network).__name__}: allowed is a torch.nn.Module")
    count = threads or torch.get_num_threads()
    timed = save == "time" or budget.kind == "target_latency"
    options = Options(budget, save, searched_configs(config, seed, timed), target, count, confidence, patches)
    with evaluation_mode(network), use_threads(count), shown("searching", progress) as tick:
        if inputs is None:
            shape = _checked_shape(input_shape, labels)
            tick("making up images", 0.0)
            inputs = draw_images(network, shape, seed, min(max(COUNT, images_needed(budget, confidence)), 4 * COUNT))
        rows = read_rows(inputs, labels)
        check_enough(budget, confidence, rows.count)
        images = rows.answered(network, batch_size)
        if budget.needs_scores and images.scores is None:
            raise InputError(
                f"{budget.kind} needs class scores (N, classes), but {type(network).__name__} returns none"
            )
        tried, held_out = images.divided()
        candidates = _candidates(network, tried, held_out, calibrated_temperature(images), options, tick)
    return _result(candidates, options, held_out, time.perf_counter() - began)


def _candidates(
    model: nn.Module, tried: Images, held_out: Images, temperature: float, options: Options, tick: Tick
) -> list[Measured]:
    """What was run on the images that were held out, the dense network first."""
    predictor = Predictor(tried, temperature, options.budget)
    explorer = Explorer(model, tried, options, predictor, tick)
    explorer.explore()
    runner = Runner(explorer, held_out, options, temperature)
    return Combiner(explorer, runner, options, predictor, tick).candidates()


def _result(candidates: Sequence[Measured], options: Options, held_out: Images, seconds: float) -> SearchResult:
    """The best candidate that keeps the budget, with all others.

    Raises:
        BudgetError: none reaches the budget's target.
    """
    budget = options.budget
    points = [candidate.point for candidate in candidates]
    keeping = [candidate.point for candidate in kept(candidates, budget)]
    found = bool(keeping) or budget.on_quality
    chosen = _best(budget, options.timed, keeping or points[:1]) if found else _nearest(budget, points)
    front = _undominated(points, chosen)
    warnings = tuple(held_out.warnings())
    result = SearchResult(
        chosen.config, front, chosen, budget, held_out.count, options.confidence, seconds, warnings=warnings
    )
    if found:
        return result
    reached = f"{chosen.latency:.3g} ms" if chosen.latency is not None else f"{chosen.mac_reduction:.3f}"
    raise BudgetError(f"{budget.kind}={budget.limit:g} can't be reached; the nearest is {reached}", result)


def _checked_shape(shape: Sequence[int] | None, labels: Labels) -> Sequence[int]:
    if labels is not None:
        raise InputError("labels are given, but no inputs")
    if shape is None or len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(f"without inputs, input_shape is the (C, H, W) of one image, not {shape!r}")
    return shape


def _best(budget: Budget, timed: bool, points: Sequence[ParetoPoint]) -> ParetoPoint:
    if budget.on_quality and timed:
        return min(points, key=lambda point: math.inf if point.latency is None else point.latency)
    if budget.on_quality:
        return max(points, key=lambda point: point.mac_reduction)
    return min(points, key=lambda point: point.output_error)


def _nearest(budget: Budget, points: Sequence[ParetoPoint]) -> ParetoPoint:
    if budget.kind == "target_latency":
        return min(points, key=lambda point: math.inf if point.latency is None else point.latency)
    return max(points, key=lambda point: point.mac_reduction)


def _undominated(points: Sequence[ParetoPoint], chosen: ParetoPoint) -> tuple[ParetoPoint, ...]:
    """Points than which no other saves more at no larger error, by rising reduction, and in any case the chosen one."""
    ordered = sorted(points, key=lambda point: point.mac_reduction)
    return tuple(
        point
        for index, point in enumerate(ordered)
        if point is chosen or all(later.output_error > point.output_error for later in ordered[index + 1 :])
    )
