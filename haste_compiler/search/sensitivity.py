"""What a method's settings and values save in each layer and what damage they do, as points; steering and running."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from haste_compiler.methods.registry import method
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.images import Images, floating
from haste_compiler.search.quality import log_scores

RUNNERS_UP = 5


@dataclass(frozen=True)
class Unit:
    """The layers of one record of a method, most often one layer; they are set together.

    Attributes:
        method: the method's name.
        layers: their names.
        cost: what they cost dense, in what the search saves: multiply-adds an image, or milliseconds.
        macs: multiply-adds an image.
    """

    method: str
    layers: tuple[str, ...]
    cost: float
    macs: float

    @property
    def neutral(self) -> tuple[float, ...]:
        """Values of its method's parameters under which nothing changes but the order of sums."""
        values = method(self.method).neutral()
        assert values is not None
        return values


@dataclass(frozen=True)
class Point:
    """A unit under one setting and one tuple of values, all else exact.

    Attributes:
        unit: which.
        setting: what is compiled in, see ``Method.settings``.
        values: of its method's parameters, which are steered.
        cost: of the unit, in what ``unit.cost`` is in.
        change: of the outputs, over the original's norm, to first order, in D random directions: (D,) float32.
        shift: to first order, what is added to the distance between the original's class and each of its first
            runners-up, (images, runners-up) float64; empty where the budget doesn't look at scores.
    """

    unit: Unit
    setting: Any
    values: tuple[float, ...]
    cost: float
    change: Tensor = field(repr=False, compare=False)
    shift: Tensor = field(repr=False, compare=False)

    @property
    def error(self) -> float:
        """The outputs' relative error; infinite where they are not finite."""
        error = float(self.change.norm())
        return error if math.isfinite(error) else math.inf

    def override(self) -> dict[str, Any]:
        """The fields of its layers' overrides that it stands for."""
        return method(self.unit.method).override(self.values, self.setting)


def steer(compiled: CompiledModule, units: Mapping[Unit, Sequence[float]]) -> None:
    """Give units values of their methods' parameters."""
    written: dict[str, dict[str, Any]] = {}
    for unit, values in units.items():
        for parameter, value in zip(method(unit.method).PARAMETERS, values, strict=True):
            written.setdefault(parameter.name, {}).update(dict.fromkeys(unit.layers, parameter.written(value)))
    for name, by_layer in written.items():
        setattr(compiled, name, by_layer)


def run(compiled: CompiledModule, images: Images) -> tuple[list[Tensor], dict[str, float]]:
    """Run a network on all images: outputs as ``images.outputs`` has them, and multiply-adds an image by layer."""
    answers, spent = [], dict[str, float]()
    for call in images.calls:
        result, stats = compiled.run_with_stats(*call)
        answers.append(floating(result, images.size))
        for name, layer in stats.items():
            spent[name] = spent.get(name, 0.0) + layer.macs.spent / layer.images / len(images.calls)
    return [torch.cat(column)[: images.count] for column in zip(*answers, strict=True)], spent


def distances(images: Images) -> tuple[Tensor, Tensor]:
    """Classes by falling score and how far below the first the next are: (N, 1 + R) and (N, R)."""
    assert images.scores is not None
    scores = log_scores(images.outputs[images.scores])
    best = scores.topk(min(RUNNERS_UP + 1, scores.shape[1]), dim=1)
    return best.indices, best.values[:, :1] - best.values[:, 1:]
