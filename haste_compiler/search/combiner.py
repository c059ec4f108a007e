"""Combining measured points, and choosing which combinations are run."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from haste_compiler.progress import Tick
from haste_compiler.search.allocate import Allocation, frontier, rivals
from haste_compiler.search.clock import Clock
from haste_compiler.search.explorer import Explorer
from haste_compiler.search.options import Options
from haste_compiler.search.predict import Predictor
from haste_compiler.search.runner import Measured, Runner, kept
from haste_compiler.search.sensitivity import Point, Unit

_ROUNDS = 3
_SPREAD, _COMPILED = 12, 1
"""Combinations that are run on the way to twice the budget: by steering, and where each must be compiled."""

_PARTS, _COMPILED_PARTS = tuple(part / 10 for part in range(2, 17)), (0.4, 0.7, 1.0, 1.4)
"""Parts of a budget on quality that combinations around it are predicted to use up."""

_MISSES = 2
"""How many combinations that miss a budget on quality are run."""

_LATENCY_TRIES = 5
_TIMED = 2


class Combiner:
    """Finds the combinations of an explorer's points around the budget.

    Args:
        explorer: that has explored.
        runner: runs combinations.
        options: of the search.
        predictor: tells what combinations may do.
        tick: see ``Tick``.
    """

    def __init__(self, explorer: Explorer, runner: Runner, options: Options, predictor: Predictor, tick: Tick) -> None:
        self._units, self._points = explorer.units, explorer.points
        self._clock, self._macs = explorer.clock, explorer.macs
        self._runner, self._budget, self._predictor, self._tick = runner, options.budget, predictor, tick

    def candidates(self) -> list[Measured]:
        """Combine the points, and run the combinations that may keep the budget; the first is the dense network."""
        clock = self._clock
        dense = self._runner.dense(clock.dense if clock else None)
        allocations, index = self._promising()
        target = self._budget.kind == "target_latency"
        if len(allocations) == 1 or (target and clock and clock.dense <= self._budget.limit):
            return [dense]
        if target and clock:
            return [dense, *self._run_within_latency(clock, allocations)]
        points = self._compiled_together(allocations[index:])
        steps = frontier(self._units, points, self._predictor.products(points, allocations[index]))
        self._tick("compiling candidates", 1.0)
        any_point: Allocation = {point.unit: point for point in points}
        spread, parts = (_SPREAD, _PARTS) if self._runner.can_steer(any_point) else (_COMPILED, _COMPILED_PARTS)
        run = self._running(any_point)
        if self._budget.on_quality:
            found = self._ascend(run, [steps[index] for index in self._on_the_way(steps, spread, parts)])
        else:
            found = self._bisect(run, steps, spread)
        return [dense, *(self._timed_ones(clock, found) if clock else found)]

    def _compiled_together(self, allocations: list[Allocation]) -> list[Point]:
        """The points that one compilation can be steered to.

        Of rivals it has the one that the first allocation chooses, or the next one that chooses any, at that setting.
        """
        numbers = {unit: number for number, together in enumerate(rivals(self._units)) for unit in together}
        kept: dict[int, tuple[Unit, Any]] = {}
        for allocation in allocations:
            for unit, point in allocation.items():
                if point is not None:
                    kept.setdefault(numbers[unit], (unit, point.setting))
        return [point for point in self._points if kept.get(numbers[point.unit]) == (point.unit, point.setting)]

    def _timed_ones(self, clock: Clock, found: list[Measured]) -> list[Measured]:
        """With the latency of the two that keep the budget and are predicted to save most time."""
        keeping = kept(found, self._budget)
        keeping.sort(key=lambda each: -_saving(each.allocation))
        self._tick("timing candidates", 1.0)
        latencies = {id(each): clock.latency(self._runner.compile(each.allocation)) for each in keeping[:_TIMED]}
        return [each._replace(point=dataclasses.replace(each.point, latency=latencies.get(id(each)))) for each in found]

    def _promising(self) -> tuple[list[Allocation], int]:
        """The frontier, and where on it the budget is predicted to be met."""
        allocations: list[Allocation] = [{}]
        index = 0
        for _ in range(_ROUNDS if self._points else 0):
            products = self._predictor.products(self._points, allocations[index])
            allocations = frontier(self._units, self._points, products)
            past = (number for number, allocation in enumerate(allocations) if self._is_past(allocation))
            index = next(past, len(allocations) - 1)
        return allocations, index

    def _is_past(self, allocation: Allocation) -> bool:
        """Whether an allocation is predicted to overdraw a budget on quality, or to reach a target."""
        if self._budget.on_quality:
            return self._predictor.overdraws(allocation)
        saved, limit = _saving(allocation), self._budget.limit
        return self._clock.dense - saved <= limit if self._clock else saved / self._macs >= limit

    def _run_within_latency(self, clock: Clock, allocations: list[Allocation]) -> list[Measured]:
        """Run allocations that are predicted to be fast enough, faster ones as long as they turn out too slow."""
        found: list[Measured] = []
        savings = [_saving(allocation) for allocation in allocations]
        tried, goal = 0, self._budget.limit
        for _ in range(_LATENCY_TRIES):
            index = next((i for i, saved in enumerate(savings) if clock.dense - saved <= goal), len(allocations) - 1)
            index = max(index, tried + 1)
            if index >= len(allocations):
                break
            self._tick("timing candidates", 1.0)
            compiled = self._runner.compile(allocations[index])
            latency = clock.latency(compiled)
            found.append(self._runner.run(compiled, allocations[index], allocations[index], latency))
            if found[-1].keeps(self._budget):
                break
            tried, goal = index, (clock.dense - savings[index]) * self._budget.limit / latency
        return found

    def _running(self, any_point: Allocation) -> Callable[[Allocation], Measured]:
        """What runs allocations of one compilation's points: by steering it, if all of them can be steered."""
        runner = self._runner
        if not runner.can_steer(any_point):
            return lambda allocation: runner.run(runner.compile(allocation), allocation, allocation)
        compiled = runner.compile(any_point)
        return lambda allocation: runner.run(compiled, any_point, allocation)

    def _on_the_way(self, steps: Sequence[Allocation], spread: int, parts: Iterable[float]) -> list[int]:
        """Which steps are run for a budget on quality, without a look at the images that are held out: what these show
        would otherwise choose which combinations have a chance to pass, and the more have one, the more bad ones pass.

        Args:
            steps: by rising damage, the first dense.
            spread: how many at equal distances, to where twice the budget is predicted to be used up.
            parts: of the budget, at which the last step is taken that is predicted to use up no more.
        """
        used = list(itertools.accumulate((self._predictor.part(step) for step in steps), max))
        last = bisect.bisect_right(used, 2.0) - 1
        near = {bisect.bisect_right(used, part) - 1 for part in parts}
        return sorted({*near, *(last * number // spread for number in range(1, spread + 1))} - {0})

    def _ascend(self, run: Callable[[Allocation], Measured], steps: Iterable[Allocation]) -> list[Measured]:
        """Run allocations in order, a few that miss the budget among them."""
        found: list[Measured] = []
        missed = 0
        for step in steps:
            found.append(run(step))
            missed += not found[-1].keeps(self._budget)
            if missed == _MISSES:
                break
        return found

    def _bisect(self, run: Callable[[Allocation], Measured], steps: list[Allocation], spread: int) -> list[Measured]:
        """Run allocations around the first that reaches the target, and some on the way there; in order."""
        found: dict[int, Measured] = {}
        low, high = 0, len(steps)
        while high - low > 1:
            middle = (low + high) // 2
            found[middle] = run(steps[middle])
            if found[middle].keeps(self._budget):
                high = middle
            else:
                low = middle
        last = min(len(steps) - 1, 2 * high)
        for part in range(1, spread + 1):
            index = last * part // spread
            if index and index not in found:
                found[index] = run(steps[index])
        return [found[index] for index in sorted(found)]


def _saving(allocation: Allocation) -> float:
    """What an allocation is predicted to save, in the units' cost."""
    return sum(unit.cost - point.cost for unit, point in allocation.items() if point is not None)
