"""The network that is watched: compiled in the ways that were asked for, steered for each look at an image."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import haste_compiler.compiler as compiler
from haste_compiler.codegen.target import TargetLike, machine_of, parse_target
from haste_compiler.errors import InputError
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.registry import method_precisions, precisions_for
from haste_compiler.methods.statistics import LayerStatistics
from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report.observation import observe
from haste_compiler.report.work_map import work_maps
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.rewritten import part_for
from haste_compiler.validation.macs import dense_macs
from haste_compiler.validation.timing import use_threads
from haste_compiler.watch.knobs import Knob, compiled_in, knobs
from haste_compiler.watch.prediction import Prediction, predict

_ROUNDS = 7
_SECONDS = 0.6

PRECISION = "precision"
"""The knob that isn't a method's."""

Settings = Mapping[str, Any]
"""Values by the names of knobs."""


@dataclass(frozen=True)
class Look:
    """What the network did with one image.

    Attributes:
        prediction: of the compiled and the dense network.
        macs: of the whole network, dense and spent.
        seconds, dense_seconds: of one call, the least of a few in turns.
        stats: of the methods' layers, by name.
        maps: where work was done, by layer.
    """

    prediction: Prediction
    macs: MacCount
    seconds: float
    dense_seconds: float
    stats: Mapping[str, LayerStatistics]
    maps: Mapping[str, WorkMap]

    @property
    def kept(self) -> float | None:
        """Share of what the methods decide about that was computed, over all layers; None: they decide about nothing.

        Channels, tiles and tokens count alike.
        """
        tallies = [layer.tally for layer in self.stats.values() if layer.tally is not None]
        total = sum(tally.total for tally in tallies)
        return sum(tally.kept for tally in tallies) / total if total else None


class Watched:
    """A network, compiled once for each combination of what is compiled in.

    It isn't safe to call from several threads: what is steered for one look would change another. `Worker` gives each
    its turn.

    Args:
        name: what the page calls it.
        model: in evaluation mode; takes one tensor.
        shape: of one call, (1, C, H, W).
        config, target, threads, precision: see ``haste_compiler.compile``.
        labels: names of classes, by number.

    Raises:
        InputError: the network takes something else.
        ConfigError, TargetError, CaptureError, UnsupportedOperatorError: see ``haste_compiler.compile``.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        shape: Sequence[int],
        *,
        config: ConfigLike = None,
        target: TargetLike = "llvm",
        threads: int | None = None,
        precision: str | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        if len(shape) != 4 or shape[0] != 1:
            raise InputError(f"a picture is 1xCxHxW, and {name} takes {'x'.join(map(str, shape))}")
        self.name, self.shape, self.labels = name, tuple(shape), labels
        self._model, self._configs, self._target, self._threads = model, Configs.of(config), target, threads
        machine = machine_of(parse_target(target), threads or torch.get_num_threads())
        precisions = precisions_for(machine)
        self._compiled: dict[tuple[Any, ...], CompiledModule] = {}
        self._knobs: dict[tuple[Any, ...], list[Knob]] = {}
        meant = [each.PRECISION for each, each_config in self._configs if each.PRECISION and each_config.enabled]
        self.compiled_in = compiled_in(self._configs, precisions, precision or next(iter(meant), precisions[0]))
        self._macs = dense_macs(model, (torch.zeros(self.shape),))
        self.prepare(self.start)

    @property
    def start(self) -> dict[str, Any]:
        """The values that what is compiled in begins with."""
        return {knob.name: knob.values[knob.start] for knob in self.compiled_in}

    def prepare(self, choice: Settings) -> CompiledModule:
        """The network with these values compiled in; compiled now if it is the first time.

        Raises:
            ConfigError, CaptureError, UnsupportedOperatorError: see ``haste_compiler.compile``.
        """
        key = tuple(choice.items())
        if key not in self._compiled:
            precision = choice.get(PRECISION)
            fields = {name: value for name, value in choice.items() if name != PRECISION}
            configs = Configs(tuple(_changed(config, fields) for config in self._configs.all))
            if precision not in method_precisions():
                configs = configs.in_float32()
            x = torch.zeros(self.shape)
            compiled = compiler.compile(
                self._model,
                (x,),
                target=self._target,
                config=list(configs.all),
                threads=self._threads,
                precision=precision,
            )
            compiled.dense.prepare(x)
            self._knobs[key] = knobs(compiled, part_for(compiled, (x,))[0].records)
            self._compiled[key] = compiled
        return self._compiled[key]

    def knobs(self, choice: Settings) -> list[Knob]:
        """What can be steered without compiling; see ``prepare``."""
        self.prepare(choice)
        return self._knobs[tuple(choice.items())]

    def steered(self, choice: Settings, values: Settings) -> CompiledModule:
        """The network with these values compiled in and these steered to; what else can be steered is as at first."""
        compiled = self.prepare(choice)
        for knob in self.knobs(choice):
            setattr(compiled, knob.name, values.get(knob.name, knob.values[knob.start]))
        return compiled

    def look(self, frame: Tensor, choice: Settings, values: Settings) -> Look:
        """Run the network and its dense compile on an image (1, C, H, W), count and time.

        Args:
            frame: the image.
            choice: of what is compiled in.
            values: of what is steered.

        Raises:
            ConfigError: a value is out of range.
        """
        compiled = self.steered(choice, values)
        with use_threads(compiled.threads):
            outputs, stats = compiled.run_with_stats(frame)
            dense = compiled.dense(frame)
            seconds, dense_seconds = in_turns(lambda: compiled(frame), lambda: compiled.dense(frame))
        saved = sum(layer.macs.dense - layer.macs.spent for layer in stats.values())
        return Look(
            predict(outputs, dense, self.labels),
            MacCount(self._macs, convolution=self._macs - saved),
            seconds,
            dense_seconds,
            stats,
            work_maps(stats, frame.shape),
        )

    def with_reference_maps(self, look: Look, frame: Tensor, choice: Settings, values: Settings) -> Look:
        """The same look, with the maps that only a method's definition in plain PyTorch knows; takes seconds.

        Arguments as of ``look``.
        """
        if not self.lacks_maps(look):
            return look
        found = observe(self._model, self.steered(choice, values), (frame,)).maps
        return dataclasses.replace(look, maps={**found, **look.maps})

    @staticmethod
    def lacks_maps(look: Look) -> bool:
        """Whether there is a method whose layers' statistics give no map at all."""
        told = {look.stats[name].method for name in look.maps}
        return any(layer.method not in told for layer in look.stats.values())

    @property
    def model(self) -> nn.Module:
        """The original."""
        return self._model


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call of each, the least of a few in turns."""
    best = [float("inf"), float("inf")]
    begin = time.perf_counter()
    for number in range(_ROUNDS):
        for place, call in enumerate((first, second)):
            start = time.perf_counter()
            call()
            best[place] = min(best[place], time.perf_counter() - start)
        if number and time.perf_counter() - begin > _SECONDS:
            break
    return best[0], best[1]


def _changed(config: Any, fields: Settings) -> Any:
    """A configuration with those of some fields that it has."""
    own = {name: value for name, value in fields.items() if name in config.fields()}
    return config.replace(**own) if own else config
