"""Measuring the layers that each method could take, all at once: each on what it reads in the plain network."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from haste_compiler.compiler import compile, compile_beside
from haste_compiler.graph.capture import Captured, capture
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.config import MethodConfig
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.method import Method
from haste_compiler.methods.products import operator_macs
from haste_compiler.methods.traced import Traced
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.progress import Tick
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.clock import Clock
from haste_compiler.search.effects import Effects, contracted
from haste_compiler.search.images import Images
from haste_compiler.search.options import Options
from haste_compiler.search.predict import Predictor
from haste_compiler.search.sensitivity import Point, Unit, steer
from haste_compiler.validation.macs import dense_macs

_WORST_ERROR = 0.5
"""Relative error of the outputs beyond which a unit is not driven."""

_MEMORY = 1 << 29
"""Bytes that layers' values and gradients may take: so many images are looked at together."""


@dataclass
class _Stage:
    """One compilation of a method, and what was found with it.

    Attributes:
        method: which.
        setting: that is compiled in.
        units: that it has and no earlier one had under the same setting.
        compiled: see ``compile_beside``.
        effects: by unit and values, (images, directions) of each part of the images.
        spent: the same, multiply-adds of all its images.
        seconds: by values, milliseconds of each layer, where time is saved.
    """

    method: Method
    setting: Any
    units: list[Unit]
    compiled: CompiledModule
    effects: dict[tuple[Unit, tuple[float, ...]], list[Tensor]] = field(default_factory=dict)
    spent: dict[tuple[Unit, tuple[float, ...]], list[float]] = field(default_factory=dict)
    seconds: dict[tuple[float, ...], Mapping[str, float]] = field(default_factory=dict)

    def set(self, values: tuple[float, ...]) -> None:
        """Give all units these values."""
        steer(self.compiled, dict.fromkeys(self.units, values))

    def drive(
        self, part: Sequence[Any], exact: Mapping[str, Tensor], gradients: Mapping[str, Tensor], images: int
    ) -> None:
        """Find what every unit does to some images under all values of the ladder.

        Args:
            part: the arguments of a call with them.
            exact: what each layer returns in the plain network.
            gradients: of each layer, see ``Effects``.
            images: the first so many are counted; the others are repeated ones.
        """
        self.compiled.prepare(*part)
        for values in self.method.ladder():
            self.set(values)
            found, stats = self.compiled.run_with_stats(*part)
            for unit in self.units:
                changes = {name: found[name] - exact[name] for name in unit.layers}
                self.effects.setdefault((unit, values), []).append(contracted(gradients, changes)[:images])
                known = [stats[name] for name in unit.layers if name in stats]
                spent = sum(each.macs.spent / each.images for each in known) if known else unit.macs
                self.spent.setdefault((unit, values), []).append(images * spent)

    def time(self, clock: Clock) -> None:
        """Find how long every layer takes under all values of the ladder."""
        for values in self.method.ladder():
            clock.prepare(self.compiled)
            self.set(values)
            self.seconds[values] = clock.profile(self.compiled)


class Explorer:
    """Measures all methods under all settings that make a difference to their layers.

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
        if self._options.timed:
            self.clock = Clock(self.compile(Configs.dense(), None), self._images)
        one = tree_map(lambda leaf: leaf[:1], self._images.calls[0])
        captured = capture(self._model, one)
        gm = rewrite(captured)
        stages = list(self._stages(gm, {each.layer: each.macs for each in operator_macs(captured.gm)}))
        if not stages:
            return
        effects = Effects(self._images, self._predictor.by_scores)
        names = {name for stage in stages for unit in stage.units for name in unit.layers}
        nodes = _nodes(gm, names)
        size = self._images_together(sum(node.meta["val"].numel() for node in nodes), effects.count)
        self._look(stages, names, effects, size)
        for stage in stages:
            if self.clock:
                stage.time(self.clock)
            for unit in stage.units:
                self.points += self._points(stage, unit, effects)

    def _stages(self, gm: fx.GraphModule, macs: dict[str, float]) -> Iterator[_Stage]:
        """What is to be compiled: every method under those settings that are new to one of its layers."""
        costs = self.clock.layers if self.clock else macs
        for own, config in self._options.configs:
            sites = [site.nodes for site in own.sites(gm, own.explored(config))]
            units = [self._unit(own, tuple(map(layer_name, nodes)), costs, macs) for nodes in sites]
            self.units += units
            seen: set[tuple[Unit, Hashable]] = set()
            for setting in self._options.settings(own) if units else ():
                kinds = {
                    unit: tuple(own.alike(self._geometry(own, node, config), setting) for node in nodes)
                    for unit, nodes in zip(units, sites, strict=True)
                }
                new = [unit for unit in units if (unit, kinds[unit]) not in seen]
                seen |= {(unit, kinds[unit]) for unit in new}
                known = _names(unit for unit in units if unit not in new)
                if new:
                    left_out = {name: {"enabled": False} for name in known}
                    explored = own.explored(config, setting).overridden(left_out)
                    yield _Stage(own, setting, new, self._compiled_beside(explored))

    def _unit(self, own: Method, names: tuple[str, ...], costs: Any, macs: dict[str, float]) -> Unit:
        return Unit(own.NAME, names, sum(costs[name] for name in names), sum(macs[name] for name in names))

    def _geometry(self, own: Method, node: fx.Node, config: MethodConfig) -> Any:
        verdict = own.judge(node, config.for_layer(layer_name(node)))
        assert verdict is not None
        return verdict.geometry

    def _compiled_beside(self, config: MethodConfig) -> CompiledModule:
        options = self._options
        return compile_beside(self._model, config, target=options.target, threads=options.threads)

    def _images_together(self, values: int, directions: int) -> int:
        """How many images are looked at together: a part of those of a call, which it divides."""
        # Besides the gradients there are a layer's value, what it needs to pull back, and what a method makes of it.
        most = max(1, _MEMORY // max(1, 4 * values * (directions + 4)))
        return next(part for part in range(min(most, self._images.size), 0, -1) if self._images.size % part == 0)

    def _look(self, stages: Sequence[_Stage], names: set[str], effects: Effects, size: int) -> None:
        """Find what every unit does under every setting and all values of its method's ladder."""
        images = self._images
        captured: Captured | None = None
        for start in range(0, images.count, size):
            call, first = divmod(start, images.size)
            part = tree_map(lambda leaf, at=first: leaf[at : at + size].contiguous(), images.calls[call])
            if captured is None:
                captured = capture(self._model, part)
                gm = rewrite(captured)
                nodes = _nodes(gm, names)
            run = Traced(gm, nodes, captured.flatten_inputs(part))
            exact = {layer_name(node): run.values[node] for node in nodes}
            rows = [min(row, images.count - 1) for row in range(start, start + size)]
            gradients = dict(zip(exact, effects.gradients(run, rows), strict=True))
            del run
            for number, stage in enumerate(stages):
                doing = "layers of" if start else "compiling for"
                self._tick(f"{doing} {stage.method.TITLE}", (start + size * number / len(stages)) / images.count)
                stage.drive(part, exact, gradients, min(size, images.count - start))

    def _points(self, stage: _Stage, unit: Unit, effects: Effects) -> Iterator[Point]:
        """A unit's points, until one goes too far."""
        for values in stage.method.ladder():
            found = torch.cat(stage.effects[unit, values])
            cost = sum(stage.spent[unit, values]) / self._images.count
            if self.clock:
                cost = sum(stage.seconds[values][name] for name in unit.layers)
            point = Point(unit, stage.setting, values, cost, effects.change(found), effects.shift(found))
            if not point.change.isfinite().all():
                return
            yield point
            if self._goes_too_far(point):
                return

    def _goes_too_far(self, point: Point) -> bool:
        """Whether a unit need not be driven further: alone it does what the whole network may not."""
        on_quality = self._options.budget.on_quality
        return point.error > _WORST_ERROR or (on_quality and self._predictor.overdraws({point.unit: point}))

    def compile(self, configs: Configs, arguments: Sequence[Any] | None) -> CompiledModule:
        """The network under configurations; for calls with such arguments, if they are given."""
        options = self._options
        return compile(self._model, arguments, target=options.target, config=configs.all, threads=options.threads)


def _nodes(gm: fx.GraphModule, names: set[str]) -> list[fx.Node]:
    """The layers of these names."""
    return [node for node in gm.graph.nodes if is_call(node, CONV2D, LINEAR) and layer_name(node) in names]


def _names(units: Iterable[Unit]) -> list[str]:
    return list(dict.fromkeys(name for unit in units for name in unit.layers))
