"""Running combinations of points on images that none of them was measured on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from haste_compiler.methods.configs import Configs
from haste_compiler.methods.registry import method
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.allocate import Allocation
from haste_compiler.search.budget import Budget
from haste_compiler.search.explorer import Explorer
from haste_compiler.search.images import Images
from haste_compiler.search.options import Options
from haste_compiler.search.quality import Judge, Quality
from haste_compiler.search.result import ParetoPoint
from haste_compiler.search.sensitivity import Unit, run, steer


class Measured(NamedTuple):
    """One allocation, run on the images that were held out."""

    allocation: Allocation
    point: ParetoPoint
    quality: Quality

    def keeps(self, budget: Budget) -> bool:
        """Whether it keeps a budget."""
        if budget.kind == "target_macs":
            return self.point.mac_reduction >= budget.limit
        if budget.kind == "target_latency":
            return self.point.latency is not None and self.point.latency <= budget.limit
        return self.quality.keeps(budget)


def kept(candidates: Iterable[Measured], budget: Budget) -> list[Measured]:
    """Those that keep a budget, of candidates by rising damage.

    Of a budget on quality only those before the first that doesn't keep it: trying many until one passes by chance
    would leave less confidence than was asked for (fixed-sequence testing). Which are run isn't chosen by these images.
    """
    if budget.on_quality:
        return list(itertools.takewhile(lambda each: each.keeps(budget), candidates))
    return [each for each in candidates if each.keeps(budget)]


class Runner:
    """Compiles allocations of an explorer's points and runs them.

    Args:
        explorer: that has explored.
        images: held out from exploring.
        options: of the search.
        temperature: see ``Judge``.
    """

    def __init__(self, explorer: Explorer, images: Images, options: Options, temperature: float) -> None:
        self._explorer, self._images, self._configs = explorer, images, options.configs
        self._judge = Judge(images, options.confidence, temperature)

    def dense(self, latency: float | None) -> Measured:
        """The dense network, whose outputs are the original's."""
        return self._measured({}, 0.0, self._judge.judge(self._images.outputs), latency)

    def compile(self, allocation: Allocation) -> CompiledModule:
        """The network under an allocation."""
        return self._explorer.compile(self._config(allocation), self._images.calls[0])

    def can_steer(self, units: Iterable[Unit]) -> bool:
        """Whether all of these units can be given values between two calls, and thus be made to change nothing."""
        return all(method(unit.method).PARAMETERS for unit in units)

    def run(
        self, compiled: CompiledModule, units: Iterable[Unit], allocation: Allocation, latency: float | None = None
    ) -> Measured:
        """Run an allocation.

        Args:
            compiled: has what the allocation's points have compiled in, and maybe more units.
            units: that it has.
            allocation: what it is steered to.
            latency: of the allocation in milliseconds, where it was measured.
        """
        chosen = {unit: point for unit, point in allocation.items() if point is not None}
        steer(compiled, {unit: chosen[unit].values if unit in chosen else unit.neutral for unit in units})
        outputs, spent = run(compiled, self._images)
        saved = sum(unit.macs - _spent(unit, spent) for unit in chosen)
        return self._measured(allocation, saved / self._explorer.macs, self._judge.judge(outputs), latency)

    def _measured(self, allocation: Allocation, reduction: float, quality: Quality, latency: float | None) -> Measured:
        numbers = (quality.output_error, quality.agreement, quality.accuracy, quality.expected_drop, latency)
        return Measured(allocation, ParetoPoint(reduction, *numbers, self._config(allocation).given), quality)

    def _config(self, allocation: Allocation) -> Configs:
        """The configurations that stand for an allocation: of each unit's layers, in its method's, an override."""
        configs = []
        for own, config in self._configs:
            overrides = {}
            for unit in self._explorer.units:
                if unit.method == own.NAME:
                    point = allocation.get(unit)
                    override = {"enabled": False} if point is None else point.override()
                    overrides.update(dict.fromkeys(unit.layers, override))
            configs.append(config.overridden(overrides))
        return Configs(tuple(configs))


def _spent(unit: Unit, spent: Mapping[str, float]) -> float:
    """Multiply-adds of a unit; those of a method that doesn't count any are all there were."""
    known = [spent[layer] for layer in unit.layers if layer in spent]
    return sum(known) if known else unit.macs
