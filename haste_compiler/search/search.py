"""``search``: a configuration within a budget, layer by layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from haste_compiler.codegen.target import TargetLike
from haste_compiler.compiler import compile
from haste_compiler.config import HasteConfig
from haste_compiler.errors import InputError
from haste_compiler.passes.capture import evaluation_mode
from haste_compiler.runtime import CompiledModule
from haste_compiler.search.allocate import Allocation, frontier
from haste_compiler.search.budget import Budget, BudgetError, one_budget
from haste_compiler.search.images import Images, read_images
from haste_compiler.search.predict import Predictor
from haste_compiler.search.quality import Judge, Quality, calibrated_temperature
from haste_compiler.search.result import ParetoPoint, SearchResult
from haste_compiler.search.sensitivity import EXACT, Patch, Point, Unit, exact_config, measure, run, steer
from haste_compiler.validation.batches import Labels
from haste_compiler.validation.macs import dense_macs
from haste_compiler.validation.timing import use_threads

PATCHES: tuple[Patch, ...] = (2, 4)
MEASURED_ON = 128
"""Images that sensitivities are measured on, at most; a quarter of those given, if that is fewer."""

_SPREAD = 8
_WORST_ERROR = 0.5


def search(
    model: nn.Module,
    inputs: Any = None,
    *,
    labels: Labels = None,
    max_accuracy_drop: float | None = None,
    min_agreement: float | None = None,
    max_output_error: float | None = None,
    target_macs: float | None = None,
    target_latency: float | None = None,
    target: TargetLike = "llvm",
    threads: int | None = None,
    config: HasteConfig | None = None,
    patches: Sequence[Patch] = PATCHES,
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
            such, or an iterable of batches.
        labels: their classes, or True where each batch's last item is its labels; may be left out.
        max_accuracy_drop: see above.
        min_agreement: see above.
        max_output_error: see above.
        target_macs: see above.
        target_latency: see above.
        target: as for ``compile``.
        threads: as for ``compile``.
        config: merge, seed and ``min_channels`` are taken from it, and the layers that it keeps dense stay dense.
        patches: patch sizes that are tried; each costs a compilation.
        batch_size: most images a call.
        confidence: with which unseen images keep a budget on quality, one-sided, 0.5 (no margin) to 1.
        seed: of the hyperplanes, unless ``config`` is given.
        progress: show on standard error what is being done.

    Returns:
        The configuration, and all that was measured. The same arguments give the same configuration, except under
        ``target_latency``.

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
    base = config or HasteConfig(seed=seed)
    count = threads or torch.get_num_threads()
    with evaluation_mode(model), use_threads(count), _progress(progress) as tick:
        images = read_images(model, inputs, labels, batch_size)
        if budget.kind in ("max_accuracy_drop", "min_agreement") and images.scores is None:
            raise InputError(f"{budget.kind} needs class scores (N, classes), but {type(model).__name__} returns none")
        found = _Search(model, images, budget, base, target, count, confidence, tick)
        found.measure(patches)
        return found.choose(began)


class _Measured(NamedTuple):
    allocation: Allocation
    point: ParetoPoint
    quality: Quality


class _Search:
    """One search: what it measures on, and what it has found so far."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        budget: Budget,
        base: HasteConfig,
        target: TargetLike,
        threads: int,
        confidence: float,
        tick: Callable[[str, float], object],
    ) -> None:
        self._model, self._budget, self._base = model, budget, base
        self._target, self._threads, self._confidence, self._tick = target, threads, confidence, tick
        calls = len(images.calls)
        first = max(1, min(calls // 4, MEASURED_ON // images.size))
        # Of a single call nothing can be held out.
        self._tried, self._held_out = images.part(0, first), images.part(first if calls > 1 else 0, calls)
        temperature = calibrated_temperature(images)
        self._judge = Judge(self._held_out, confidence, temperature)
        self._predictor = Predictor(self._tried, temperature, budget)
        self._dense = dense_macs(model, images.calls[0]) / images.size
        self._units: list[Unit] = []
        self._points: list[Point] = []

    def measure(self, patches: Sequence[Patch]) -> None:
        """Measure every unit at every patch size that makes a difference to it."""
        seen: set[tuple[str, tuple[int, int]]] = set()
        sizes: dict[str, tuple[int, int]] = {}
        for number, patch in enumerate(patches):
            config = exact_config(self._base, patch)
            high, wide = (patch, patch) if isinstance(patch, int) else patch
            same = [name for name, (h, w) in sizes.items() if (name, (min(high, h), min(wide, w))) in seen]
            if sizes and len(same) == len(sizes):
                continue
            self._tick(f"compiling for patch {patch}", number / len(patches))
            compiled = self._compile(_dense_layers(config, same))
            geometries = {layer.name: layer.geometry for layer in compiled.layers if layer.geometry}
            if not number:
                self._units = [
                    Unit(layers, float(sum(geometries[layer].dense_macs for layer in layers)))
                    for layers in compiled.groupings
                ]
                sizes = {name: geometries[name].output_size for unit in self._units for name in unit.layers}
            here = set(compiled.groupings)
            units = [unit for unit in self._units if unit.layers in here]
            seen |= {(name, geometries[name].effective_patch) for unit in units for name in unit.layers}
            for done, unit in enumerate(units, start=1):
                self._points += measure(compiled, self._tried, unit, patch, self._worst)
                self._tick(f"layers at patch {patch}", (number + done / len(units)) / len(patches))

    @property
    def _worst(self) -> float:
        """Output error past which a layer is not driven."""
        return min(2 * self._budget.limit, _WORST_ERROR) if self._budget.kind == "max_output_error" else _WORST_ERROR

    def choose(self, began: float) -> SearchResult:
        """Combine the points, run what may keep the budget, and return the best."""
        allocations, index = self._promising()
        used = {unit for unit, point in allocations[-1].items() if point is not None}
        patches = {unit: point.patch for unit, point in allocations[index].items() if point is not None}
        for allocation in allocations[index:]:
            for unit in used:
                point = allocation[unit]
                if point is not None:
                    patches.setdefault(unit, point.patch)
        points = [point for point in self._points if patches.get(point.unit) == point.patch]
        damage = self._predictor.damage_near(allocations[index])
        steps = frontier(self._units, points, damage)
        measured = {0: self._dense_point()}
        if len(steps) > 1:
            self._tick("compiling candidates", 1.0)
            compiled = self._compile(self._config({unit: _any(points, unit) for unit in self._units}))
            self._bisect(compiled, steps, measured)
        return self._result(measured, began)

    def _promising(self) -> tuple[list[Allocation], int]:
        """The frontier, and where on it the budget is predicted to be met."""
        damage, allocations, index = self._predictor.damage_near({}), [], 0
        for _ in range(4):
            allocations = frontier(self._units, self._points, damage)
            index = next(
                (i for i, allocation in enumerate(allocations) if self._past(allocation)), len(allocations) - 1
            )
            damage = self._predictor.damage_near(allocations[index])
        return allocations, index

    def _past(self, allocation: Allocation) -> bool:
        limit = self._budget.limit
        if self._budget.kind == "target_macs":
            saved = sum(unit.cost - point.cost for unit, point in allocation.items() if point is not None)
            return saved / self._dense >= limit
        return self._predictor.harm(allocation) > (1 - limit if self._budget.kind == "min_agreement" else limit)

    def _bisect(self, compiled: CompiledModule, steps: list[Allocation], measured: dict[int, _Measured]) -> None:
        low, high = 0, len(steps)
        while high - low > 1:
            middle = (low + high) // 2
            measured[middle] = self._run(compiled, steps[middle])
            if self._fits(measured[middle]) == self._budget.on_quality:
                low = middle
            else:
                high = middle
        last = min(len(steps) - 1, max(1, 2 * high))
        for part in range(1, _SPREAD + 1):
            index = last * part // _SPREAD
            if index not in measured:
                measured[index] = self._run(compiled, steps[index])

    def _fits(self, candidate: _Measured) -> bool:
        if self._budget.kind == "target_macs":
            return candidate.point.mac_reduction >= self._budget.limit
        return candidate.quality.keeps(self._budget)

    def _run(self, compiled: CompiledModule, allocation: Allocation) -> _Measured:
        settings = {
            layer: EXACT if (point := allocation.get(unit)) is None else point.settings
            for unit in self._units
            for layer in unit.layers
            if unit.layers in compiled.groupings
        }
        steer(compiled, settings)
        outputs, spent = run(compiled, self._held_out)
        saved = sum(
            unit.cost - sum(spent[layer] for layer in unit.layers)
            for unit, point in allocation.items()
            if point is not None
        )
        return self._measured(allocation, saved / self._dense, self._judge.judge(outputs))

    def _dense_point(self) -> _Measured:
        return self._measured(dict.fromkeys(self._units), 0.0, self._judge.judge(self._held_out.outputs))

    def _measured(self, allocation: Allocation, reduction: float, quality: Quality) -> _Measured:
        point = ParetoPoint(
            reduction,
            quality.output_error,
            quality.agreement,
            quality.accuracy,
            quality.expected_drop,
            None,
            self._config(allocation),
        )
        return _Measured(allocation, point, quality)

    def _result(self, measured: dict[int, _Measured], began: float) -> SearchResult:
        candidates = list(measured.values())
        fitting = [candidate for candidate in candidates if self._fits(candidate)]
        if self._budget.on_quality:
            chosen = max(fitting or candidates[:1], key=lambda candidate: candidate.point.mac_reduction).point
        elif fitting:
            chosen = min(fitting, key=lambda candidate: candidate.point.output_error).point
        else:
            chosen = max(candidates, key=lambda candidate: candidate.point.mac_reduction).point
        ordered = sorted((candidate.point for candidate in candidates), key=lambda point: point.mac_reduction)
        pareto = tuple(
            point
            for index, point in enumerate(ordered)
            if point is chosen or all(later.output_error > point.output_error for later in ordered[index + 1 :])
        )
        result = SearchResult(
            chosen.config,
            pareto,
            chosen,
            self._budget,
            self._held_out.count,
            self._confidence,
            time.perf_counter() - began,
        )
        if not fitting and not self._budget.on_quality:
            raise BudgetError(
                f"{self._budget.kind}={self._budget.limit:g} can't be reached: "
                f"the most that was saved is {chosen.mac_reduction:.3f}",
                result,
            )
        return result

    def _config(self, allocation: Allocation) -> HasteConfig:
        layers: dict[str, Any] = dict(self._base.layers)
        for unit in self._units:
            point = allocation.get(unit)
            override = {"enabled": False} if point is None else point.override()
            layers.update((layer, {**layers.get(layer, {}), **override}) for layer in unit.layers)
        return self._base.replace(skip="flat", min_reads=0, layers=layers)

    def _compile(self, config: HasteConfig) -> CompiledModule:
        arguments = self._tried.calls[0]
        return compile(self._model, arguments, target=self._target, config=config, threads=self._threads)


def _dense_layers(config: HasteConfig, names: Sequence[str]) -> HasteConfig:
    return config.replace(layers={**config.layers, **{name: {"enabled": False} for name in names}})


def _any(points: Sequence[Point], unit: Unit) -> Point | None:
    return next((point for point in points if point.unit == unit), None)


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, float], object]]:
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("searching", total=1.0)
        yield lambda doing, part: bar.update(task, description=f"searching: {doing}", completed=part)
