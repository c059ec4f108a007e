"""``search``: a configuration within a budget, layer by layer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from haste_compiler.codegen.target import TargetLike
from haste_compiler.errors import InputError
from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.search.budget import Budget, BudgetError, one_budget
from haste_compiler.search.explorer import Explorer
from haste_compiler.search.images import read_images
from haste_compiler.search.result import ParetoPoint, SearchResult
from haste_compiler.search.sensitivity import Patch
from haste_compiler.search.synthetic import draw_images
from haste_compiler.validation.batches import Labels
from haste_compiler.validation.timing import use_threads

SMALL_PATCHES: tuple[Patch, ...] = (2, 4)
"""Patches that are tried where multiply-adds are saved: windows of few pixels are flat or alike more often."""

LARGE_PATCHES: tuple[Patch, ...] = (8, 4)
"""Patches that are tried where time is saved: grouping and merging filters is paid for once a patch."""


def search(
    model: nn.Module,
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
    config: HasteConfig | None = None,
    patches: Sequence[Patch] | None = None,
    batch_size: int = 64,
    confidence: float = 0.9,
    seed: int = 0,
    progress: bool = True,
) -> SearchResult:
    """Find each layer's tolerance, flat tolerance, hyperplanes and patch, and which layers stay dense, in a budget.

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
            measures it. A layer that merging makes no faster then stays dense.
        target: as for ``compile``.
        threads: as for ``compile``.
        config: merge, nonzeros, seed and ``min_channels`` are taken from it, and layers that it keeps dense stay so.
        patches: patch sizes that are tried, each for a compilation and as many runs as there are layers and settings;
            None: 2 and 4, and 8 and 4 where time is saved.
        batch_size: most images a call.
        confidence: with which unseen images keep a budget on quality, one-sided, 0.5 (no margin) to 1.
        seed: of the hyperplanes, unless ``config`` is given.
        progress: show on standard error what is being done.

    Returns:
        The configuration, and all that was measured. The same arguments give the same configuration, except where
        time is saved.

    Raises:
        InputError: no budget or several, or an argument is out of range.
        BudgetError: no configuration reaches ``target_macs`` or ``target_latency``; its ``result`` has the nearest.
        CaptureError, UnsupportedOperatorError, TargetError: as ``compile``.
    """
    began = time.perf_counter()
    budget = one_budget(
        max_accuracy_drop=max_accuracy_drop,
        min_agreement=min_agreement,
        max_output_error=max_output_error,
        target_macs=target_macs,
        target_latency=target_latency,
    )
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}: allowed is a torch.nn.Module")
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is {confidence!r}: allowed is 0.5 to below 1")
    if save not in ("macs", "time"):
        raise InputError(f"save is {save!r}: allowed are 'macs' and 'time'")
    if save == "time" and budget.kind == "target_macs":
        raise InputError("target_macs asks for multiply-adds: save='time' goes with a budget on quality")
    timed = save == "time" or budget.kind == "target_latency"
    base = config or HasteConfig(seed=seed)
    count = threads or torch.get_num_threads()
    with evaluation_mode(model), use_threads(count), _progress(progress) as tick:
        if inputs is None:
            tick("making up images", 0.0)
            inputs = draw_images(model, _checked_shape(input_shape, labels), seed)
        images = read_images(model, inputs, labels, batch_size)
        if budget.kind in ("max_accuracy_drop", "min_agreement") and images.scores is None:
            raise InputError(f"{budget.kind} needs class scores (N, classes), but {type(model).__name__} returns none")
        explorer = Explorer(model, images, budget, timed, base, target, count, confidence, tick)
        explorer.measure(patches or (LARGE_PATCHES if timed else SMALL_PATCHES))
        candidates = explorer.candidates()
    keeping = [candidate.point for candidate in candidates if explorer.keeps(candidate)]
    points = [candidate.point for candidate in candidates]
    chosen = _best(budget, timed, keeping or points[:1]) if keeping or budget.on_quality else _nearest(budget, points)
    result = SearchResult(
        chosen.config,
        _undominated(points, chosen),
        chosen,
        budget,
        explorer.held_out,
        confidence,
        time.perf_counter() - began,
    )
    if keeping or budget.on_quality:
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


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, float], object]]:
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("searching", total=1.0)
        yield lambda doing, part: bar.update(task, description=f"searching: {doing}", completed=part)
