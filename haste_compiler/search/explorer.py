"""What a search does: measure layers, combine them, run the combinations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from haste_compiler.codegen.target import TargetLike
from haste_compiler.compiler import compile
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.allocate import Allocation, frontier
from haste_compiler.search.budget import Budget
from haste_compiler.search.clock import Clock
from haste_compiler.search.images import Images
from haste_compiler.search.predict import Predictor
from haste_compiler.search.quality import Judge, Quality, calibrated_temperature
from haste_compiler.search.result import ParetoPoint
from haste_compiler.search.sensitivity import EXACT, Patch, Point, Unit, exact_config, measure, run, steer
from haste_compiler.validation.macs import dense_macs

MEASURED_ON = 128
"""Images that sensitivities are measured on, at most; a quarter of those given, if that is fewer."""

_ROUNDS = 3
_SPREAD = 12
_WORST_ERROR = 0.5
_LATENCY_TRIES = 5
_TIMED = 2
_OWN = ("enabled", "merge", "nonzeros", "seed", "min_channels")
"""Fields of a layer's overrides that a search takes over."""


class Measured(NamedTuple):
    """One allocation, run on the images that were held out."""

    point: ParetoPoint
    quality: Quality


class Explorer:
    """One search: what it measures on, and what it has found so far.

    Args:
        model: in evaluation mode.
        images: all of them; part of them is held out from everything but the last step.
        budget: to be kept.
        timed: what is saved is time, not multiply-adds.
        base: what is not searched.
        target: compiled for.
        threads: compiled for.
        confidence: of keeping the budget.
        tick: called with what is being done and which part of the search is over.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        budget: Budget,
        timed: bool,
        base: HasteConfig,
        target: TargetLike,
        threads: int,
        confidence: float,
        tick: Callable[[str, float], object],
    ) -> None:
        self._model, self._budget, self._timed, self._base = model, budget, timed, _own_fields(base)
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
        self._clock: Clock | None = None

    @property
    def held_out(self) -> int:
        """Images that allocations are run on."""
        return self._held_out.count

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
            compiled = self._compile(_with_layers(config, {name: {"enabled": False} for name in same}))
            geometries = {layer.name: layer.geometry for layer in compiled.layers if layer.geometry}
            if not number:
                if self._timed:
                    self._clock = Clock(compiled, self._tried)
                macs = {name: float(geometry.dense_macs) for name, geometry in geometries.items()}
                costs = self._clock.layers if self._clock else macs
                self._units = [
                    Unit(layers, sum(costs[layer] for layer in layers), sum(macs[layer] for layer in layers))
                    for layers in compiled.groupings
                ]
                sizes = {name: geometries[name].output_size for unit in self._units for name in unit.layers}
            here = set(compiled.groupings)
            units = [unit for unit in self._units if unit.layers in here]
            seen |= {(name, geometries[name].effective_patch) for unit in units for name in unit.layers}
            for done, unit in enumerate(units, start=1):
                self._points += measure(compiled, self._tried, unit, patch, self._goes_too_far, self._clock)
                self._tick(f"layers at patch {patch}", (number + done / len(units)) / len(patches))

    def _goes_too_far(self, point: Point) -> bool:
        """Whether a unit need not be driven further: alone it does what the whole network may not."""
        alone = {point.unit: point}
        return point.error > _WORST_ERROR or (self._budget.on_quality and self._past(alone))

    def candidates(self) -> list[Measured]:
        """Combine the points, and run the combinations that may keep the budget; the first is the dense network."""
        latency = self._clock.dense if self._clock else None
        dense = self._measured({}, 0.0, self._judge.judge(self._held_out.outputs), latency)
        allocations, index = self._promising()
        target = self._budget.kind == "target_latency"
        if len(allocations) == 1 or (target and self._clock and self._clock.dense <= self._budget.limit):
            return [dense]
        if target and self._clock:
            return [dense, *self._run_within_latency(self._clock, allocations)]
        # Patches can't be steered: each unit keeps the one that it has at the budget, or that it is first given.
        patches: dict[Unit, Patch] = {}
        for allocation in allocations[index:]:
            for unit, point in allocation.items():
                if point is not None:
                    patches.setdefault(unit, point.patch)
        points = [point for point in self._points if patches.get(point.unit) == point.patch]
        steps = frontier(self._units, points, self._predictor.products(points, allocations[index]))
        self._tick("compiling candidates", 1.0)
        any_point = {point.unit: point for point in points}
        compiled = self._compile(self._config({unit: any_point.get(unit) for unit in self._units}))
        found = self._bisect(compiled, steps)
        return [dense, *(self._timed_ones(self._clock, found) if self._clock else found)]

    def _timed_ones(self, clock: Clock, found: list[Measured]) -> list[Measured]:
        """With the latency of the two that keep the budget and save the most multiply-adds of the layers they chose."""
        keeping = sorted((each for each in found if self.keeps(each)), key=lambda each: -each.point.mac_reduction)
        self._tick("timing candidates", 1.0)
        latencies = {id(each): clock.latency(self._compile(each.point.config)) for each in keeping[:_TIMED]}
        return [each._replace(point=dataclasses.replace(each.point, latency=latencies.get(id(each)))) for each in found]

    def keeps(self, candidate: Measured) -> bool:
        """Whether a candidate keeps the budget."""
        if self._budget.kind == "target_macs":
            return candidate.point.mac_reduction >= self._budget.limit
        if self._budget.kind == "target_latency":
            return candidate.point.latency is not None and candidate.point.latency <= self._budget.limit
        return candidate.quality.keeps(self._budget)

    def _promising(self) -> tuple[list[Allocation], int]:
        """The frontier, and where on it the budget is predicted to be met."""
        allocations: list[Allocation] = [{}]
        index = 0
        for _ in range(_ROUNDS if self._points else 0):
            allocations = frontier(
                self._units, self._points, self._predictor.products(self._points, allocations[index])
            )
            index = next(
                (i for i, allocation in enumerate(allocations) if self._past(allocation)), len(allocations) - 1
            )
        return allocations, index

    def _past(self, allocation: Allocation) -> bool:
        """Whether an allocation is predicted to overdraw a budget on quality, or to reach a target."""
        limit = self._budget.limit
        if self._budget.on_quality:
            return self._predictor.harm(allocation) > (1 - limit if self._budget.kind == "min_agreement" else limit)
        saved = _saving(allocation)
        return self._clock.dense - saved <= limit if self._clock else saved / self._dense >= limit

    def _run_within_latency(self, clock: Clock, allocations: list[Allocation]) -> list[Measured]:
        """Run allocations that are predicted to be fast enough, faster ones as long as they turn out too slow."""
        found: list[Measured] = []
        tried, goal = 0, self._budget.limit
        for _ in range(_LATENCY_TRIES):
            savings = [_saving(allocation) for allocation in allocations]
            index = next((i for i, saved in enumerate(savings) if clock.dense - saved <= goal), len(allocations) - 1)
            index = max(index, tried + 1)
            if index >= len(allocations):
                break
            self._tick("timing candidates", 1.0)
            compiled = self._compile(self._config(allocations[index]))
            found.append(self._run(compiled, allocations[index], clock.latency(compiled)))
            if self.keeps(found[-1]):
                break
            latency = found[-1].point.latency
            assert latency is not None
            tried, goal = index, (clock.dense - savings[index]) * self._budget.limit / latency
        return found

    def _bisect(self, compiled: CompiledModule, steps: list[Allocation]) -> list[Measured]:
        """Run allocations around the one furthest along that keeps the budget, and some on the way there."""
        found: dict[int, Measured] = {}
        low, high = 0, len(steps)
        while high - low > 1:
            middle = (low + high) // 2
            found[middle] = self._run(compiled, steps[middle])
            if self.keeps(found[middle]) == self._budget.on_quality:
                low = middle
            else:
                high = middle
        last = min(len(steps) - 1, 2 * high)
        for part in range(1, _SPREAD + 1):
            index = last * part // _SPREAD
            if index and index not in found:
                found[index] = self._run(compiled, steps[index])
        return list(found.values())

    def _run(self, compiled: CompiledModule, allocation: Allocation, latency: float | None = None) -> Measured:
        """Run an allocation on the images held out; ``compiled`` has its patches, and maybe more HASTE layers."""
        chosen = {layer: point for unit, point in allocation.items() for layer in unit.layers}
        here = [layer for layers in compiled.groupings for layer in layers]
        steer(compiled, {layer: EXACT if (point := chosen.get(layer)) is None else point.settings for layer in here})
        outputs, spent = run(compiled, self._held_out)
        saved = sum(
            unit.macs - sum(spent[layer] for layer in unit.layers)
            for unit, point in allocation.items()
            if point is not None
        )
        return self._measured(allocation, saved / self._dense, self._judge.judge(outputs), latency)

    def _measured(self, allocation: Allocation, reduction: float, quality: Quality, latency: float | None) -> Measured:
        numbers = (quality.output_error, quality.agreement, quality.accuracy, quality.expected_drop, latency)
        return Measured(ParetoPoint(reduction, *numbers, self._config(allocation)), quality)

    def _config(self, allocation: Allocation) -> HasteConfig:
        layers: dict[str, Any] = {}
        for unit in self._units:
            point = allocation.get(unit)
            layers.update(dict.fromkeys(unit.layers, {"enabled": False} if point is None else point.override()))
        return _with_layers(self._base.replace(skip="flat", min_reads=0), layers)

    def _compile(self, config: HasteConfig) -> CompiledModule:
        arguments = self._tried.calls[0]
        return compile(self._model, arguments, target=self._target, config=config, threads=self._threads)


def _saving(allocation: Allocation) -> float:
    """What an allocation is predicted to save, in the units' cost."""
    return sum(unit.cost - point.cost for unit, point in allocation.items() if point is not None)


def _own_fields(config: HasteConfig) -> HasteConfig:
    """A configuration whose overrides hold only what a search leaves to the user."""
    own = {
        pattern: {name: value for name, value in override.items() if name in _OWN}
        for pattern, override in config.layers.items()
    }
    return config.replace(layers={pattern: override for pattern, override in own.items() if override})


def _with_layers(config: HasteConfig, overrides: dict[str, Any]) -> HasteConfig:
    """Add overrides behind those that are there, so that they win."""
    layers = {pattern: override for pattern, override in config.layers.items() if pattern not in overrides}
    both = {name: {**config.layers.get(name, {}), **override} for name, override in overrides.items()}
    return config.replace(layers={**layers, **both})
