"""What each layer's settings save and what damage they do, measured one layer at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.haste.statistics import LayerStats
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.clock import Clock
from haste_compiler.search.images import Images, floating
from haste_compiler.search.quality import log_scores

Patch = int | tuple[int, int]

EXACT = Settings(1, 0.0, 0.0)
"""Settings under which a HASTE convolution changes nothing but the order of its sums."""

LADDER = (
    Settings(1, 0.0, 0.1),
    Settings(12, 0.2, 0.1),
    Settings(16, 0.3, 0.1),
    Settings(1, 0.0, 0.3),
    Settings(14, 0.4, 0.15),
    Settings(10, 0.4, 0.2),
    Settings(14, 0.5, 0.2),
    Settings(10, 0.5, 0.2),
    Settings(12, 0.7, 0.3),
    Settings(8, 0.7, 0.3),
    Settings(8, 1.0, 0.4),
    Settings(6, 1.0, 0.5),
    Settings(5, math.inf, 0.5),
)
"""Settings that are measured, roughly by rising damage: hyperplanes, tolerance, flat tolerance."""

RUNNERS_UP = 5

SAMPLE = 8192
"""Values of an output whose changes are kept."""


@dataclass(frozen=True)
class Unit:
    """Convolutions that share a grouping, most often one, and are therefore set together.

    Attributes:
        layers: their names.
        cost: what they cost dense, in what the search saves: multiply-adds an image, or milliseconds.
        macs: multiply-adds an image.
    """

    layers: tuple[str, ...]
    cost: float
    macs: float


@dataclass(frozen=True)
class Point:
    """A unit under one setting, all else exact.

    Attributes:
        unit: which.
        patch: patch size.
        settings: what is steered.
        cost: of the unit, in what ``unit.cost`` is in.
        change: of the outputs, over the original's norm, (D,) float32; of large outputs a sample.
        shift: what is added to the distance between the original's class and each of its first runners-up, (images,
            runners-up) float64; empty where no output holds class scores.
    """

    unit: Unit
    patch: Patch
    settings: Settings
    cost: float
    change: Tensor = field(repr=False, compare=False)
    shift: Tensor = field(repr=False, compare=False)

    @property
    def error(self) -> float:
        """The outputs' relative error; infinite where they are not finite."""
        error = float(self.change.norm())
        return error if math.isfinite(error) else math.inf

    def override(self) -> dict[str, object]:
        """The fields of ``HasteConfig`` that it stands for."""
        planes, tolerance, flat_tolerance = self.settings
        return {
            "enabled": True,
            "cost_model": False,
            "patch_size": self.patch,
            "num_hyperplanes": planes,
            "tolerance": None if math.isinf(tolerance) else tolerance,
            "flat_tolerance": flat_tolerance,
        }


def exact_config(base: HasteConfig, patch: Patch) -> HasteConfig:
    """A configuration in which every layer that can be is a HASTE convolution, and nothing is changed."""
    planes, tolerance, flat_tolerance = EXACT
    return base.replace(
        enabled=True,
        cost_model=False,
        patch_size=patch,
        num_hyperplanes=planes,
        tolerance=tolerance,
        flat_tolerance=flat_tolerance,
        skip="flat",
        min_reads=0,
    )


def steer(compiled: CompiledModule, settings: dict[str, Settings]) -> None:
    """Give layers settings, by name."""
    compiled.num_hyperplanes = {layer: value.num_hyperplanes for layer, value in settings.items()}
    compiled.tolerance = {
        layer: None if math.isinf(value.tolerance) else value.tolerance for layer, value in settings.items()
    }
    compiled.flat_tolerance = {layer: value.flat_tolerance for layer, value in settings.items()}


def run(compiled: CompiledModule, images: Images) -> tuple[list[Tensor], dict[str, float]]:
    """Run a network on all images: outputs as ``images.outputs`` has them, and multiply-adds an image by layer."""
    answers, spent = [], dict[str, float]()
    for call in images.calls:
        result, stats = compiled.run_with_stats(*call)
        answers.append(floating(result, images.size))
        for name, layer in stats.items():
            spent[name] = spent.get(name, 0.0) + _per_image(layer) / len(images.calls)
    return [torch.cat(column)[: images.count] for column in zip(*answers, strict=True)], spent


def _per_image(layer: LayerStats) -> float:
    return layer.macs.spent / layer.images


def measure(
    compiled: CompiledModule,
    images: Images,
    unit: Unit,
    patch: Patch,
    enough: Callable[[Point], bool],
    clock: Clock | None,
) -> list[Point]:
    """Measure a unit under the settings of ``LADDER``, all other units exact.

    Args:
        compiled: under ``exact_config``; put back into that state.
        images: to measure on.
        unit: which.
        patch: that it was compiled with.
        enough: whether the unit need not be driven beyond a point.
        clock: to be saved is time, and this tells it; None: multiply-adds.
    """
    points: list[Point] = []
    for settings in LADDER:
        steer(compiled, dict.fromkeys(unit.layers, settings))
        outputs, spent = run(compiled, images)
        costs = clock.profile(compiled) if clock else spent
        cost = sum(costs[layer] for layer in unit.layers)
        point = Point(unit, patch, settings, cost, _change(images, outputs), _shift(images, outputs))
        if not math.isfinite(point.error):
            break
        points.append(point)
        if enough(point):
            break
    steer(compiled, dict.fromkeys(unit.layers, EXACT))
    return points


def distances(images: Images) -> tuple[Tensor, Tensor]:
    """Classes by falling score and how far below the first the next are: (N, 1 + R) and (N, R)."""
    assert images.scores is not None
    scores = log_scores(images.outputs[images.scores])
    best = scores.topk(min(RUNNERS_UP + 1, scores.shape[1]), dim=1)
    return best.indices, best.values[:, :1] - best.values[:, 1:]


def _change(images: Images, outputs: Sequence[Tensor]) -> Tensor:
    parts = []
    for original, found in zip(images.outputs, outputs, strict=True):
        change = ((found - original) / original.norm().clamp(min=1e-300)).flatten()
        if len(change) > SAMPLE:
            picked = torch.randint(len(change), (SAMPLE,), generator=torch.Generator().manual_seed(0))
            change = change[picked] * math.sqrt(len(change) / SAMPLE)
        parts.append(change.float())
    return torch.cat(parts)


def _shift(images: Images, outputs: Sequence[Tensor]) -> Tensor:
    if images.scores is None:
        return torch.empty(images.count, 0)
    classes, before = distances(images)
    found = log_scores(outputs[images.scores]).gather(1, classes)
    return found[:, :1] - found[:, 1:] - before
