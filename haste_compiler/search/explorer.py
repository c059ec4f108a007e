"""Measuring the layers that each method could take, one at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from haste_compiler.compiler import compile
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.config import MethodConfig
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.method import Method
from haste_compiler.progress import Tick
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.clock import Clock
from haste_compiler.search.images import Images
from haste_compiler.search.options import Options
from haste_compiler.search.predict import Predictor
from haste_compiler.search.sensitivity import Point, Unit, measure
from haste_compiler.validation.macs import dense_macs

_WORST_ERROR = 0.5
"""Relative error of the outputs beyond which a unit is not driven."""


class Explorer:
    """Measures one method after the other, under all settings that make a difference to its layers.

    Args:
        model: in evaluation mode.
        images: to measure on.
        options: of the search.
        predictor: tells what a point may do.
        tick: see ``Tick``.

    Attributes:
        units: of all methods; those of different ones may share layers.
        points: measured ones.
        clock: where time is saved.
        macs: multiply-adds of the whole dense network on one image.
    """

    def __init__(self, model: nn.Module, images: Images, options: Options, predictor: Predictor, tick: Tick) -> None:
        self._model, self._images, self._options = model, images, options
        self._predictor, self._tick = predictor, tick
        self.units: list[Unit] = []
        self.points: list[Point] = []
        self.clock: Clock | None = None
        self.macs = dense_macs(model, images.calls[0]) / images.size

    def explore(self) -> None:
        """Measure every method."""
        methods = [(method, config, self._options.settings(method)) for method, config in self._options.configs]
        compilations, before = sum(len(settings) for *_, settings in methods), 0
        for method, config, settings in methods:
            for doing, part in self._measured(method, config, settings):
                self._tick(doing, (before + part) / compilations)
            before += len(settings)

    def _measured(self, method: Method, config: MethodConfig, settings: Sequence[Any]) -> Iterator[tuple[str, float]]:
        """Measure one method; gives what is being done, and how many settings are done with."""
        units: list[Unit] = []
        geometries: dict[str, ConvGeometry] = {}
        seen: set[tuple[str, Hashable]] = set()
        for number, setting in enumerate(settings):
            known = [name for name, each in geometries.items() if (name, method.alike(each, setting)) in seen]
            if number and len(known) == len(_names(units)):
                continue
            yield f"compiling for {method.TITLE}", number
            explored = method.explored(config, setting).overridden({name: {"enabled": False} for name in known})
            compiled = self.compile(Configs((explored,)))
            if not number:
                units = self._units_of(method, compiled)
                shapes = {each.name: each.geometry for each in compiled.layers if each.geometry}
                geometries = {name: shapes[name] for name in _names(units) if name in shapes}
            here = set(compiled.groupings)
            measured = [unit for unit in units if unit.layers in here]
            for done, unit in enumerate(measured, start=1):
                self.points += measure(compiled, self._images, unit, setting, self._goes_too_far, self.clock)
                yield f"layers of {method.TITLE}", number + done / len(measured)
            shapes = {name: geometries[name] for name in _names(measured) if name in geometries}
            seen |= {(name, method.alike(shape, setting)) for name, shape in shapes.items()}
        self.units += units

    def _units_of(self, method: Method, compiled: CompiledModule) -> list[Unit]:
        if self._options.timed and self.clock is None:
            self.clock = Clock(compiled, self._images)
        stats = compiled.stats(*self._images.calls[0])
        macs = {name: layer.macs.dense / layer.images for name, layer in stats.items()}
        costs = self.clock.layers if self.clock else macs
        return [
            Unit(method.NAME, layers, sum(costs[name] for name in layers), sum(macs[name] for name in layers))
            for layers in compiled.groupings
        ]

    def _goes_too_far(self, point: Point) -> bool:
        """Whether a unit need not be driven further: alone it does what the whole network may not."""
        on_quality = self._options.budget.on_quality
        return point.error > _WORST_ERROR or (on_quality and self._predictor.overdraws({point.unit: point}))

    def compile(self, configs: Configs) -> CompiledModule:
        """The network under configurations, for calls like those that were measured."""
        options = self._options
        arguments = self._images.calls[0]
        return compile(self._model, arguments, target=options.target, config=configs.all, threads=options.threads)


def _names(units: Iterable[Unit]) -> list[str]:
    return list(dict.fromkeys(name for unit in units for name in unit.layers))
