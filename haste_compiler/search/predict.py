"""What an allocation will do to the outputs, from what each of its points does alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from haste_compiler.search.allocate import Allocation
from haste_compiler.search.budget import Budget
from haste_compiler.search.images import Images
from haste_compiler.search.quality import log_scores
from haste_compiler.search.sensitivity import Point, distances


class Predictor:
    """Adds up the points of an allocation as independent errors, squares over squares.

    The distance m between the original's class and a runner-up then is off by about sigma, the root of the sum of the
    points' squared shifts, and the runner-up overtakes it with the probability ``Phi(-m / sigma)``.

    Args:
        images: that the points were measured on.
        temperature: see ``Judge``.
        budget: what will be asked of the allocation.
    """

    def __init__(self, images: Images, temperature: float, budget: Budget) -> None:
        self._budget = budget
        self._by_error = budget.kind == "max_output_error" or images.scores is None
        if images.scores is None:
            return
        scores = log_scores(images.outputs[images.scores])
        classes, self._distances = distances(images)
        likely = (scores / temperature).softmax(dim=1).gather(1, classes)
        self._costs = torch.ones_like(self._distances)
        if budget.kind != "min_agreement":
            self._costs = likely[:, :1] - likely[:, 1:]

    def harm(self, allocation: Allocation) -> float:
        """What the budget limits: relative output error, part of the images that change class, or accuracy lost."""
        points = [point for point in allocation.values() if point is not None]
        if self._by_error:
            return math.sqrt(sum(point.error for point in points))
        if not points:
            return 0.0
        overtaken = _normal_tail(self._distances / self._deviation(points))
        return float((overtaken * self._costs).sum(dim=1).clamp(max=1).mean())

    def damage_near(self, allocation: Allocation) -> Callable[[Point], float]:
        """A damage that adds up over the points, and near this allocation is proportional to what ``harm`` returns."""
        points = [point for point in allocation.values() if point is not None]
        if self._by_error or not points:
            return lambda point: point.error
        deviation = self._deviation(points)
        ratio = self._distances / deviation
        # The derivative of Phi(-m / sigma) by sigma squared.
        slope = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi) * ratio / (2 * deviation.square()) * self._costs
        return lambda point: float((slope * point.shifts).sum())

    def _deviation(self, points: list[Point]) -> Tensor:
        squares = torch.stack([point.shifts for point in points]).sum(dim=0)
        # One image's shift is one draw of the error: half of it is taken from all of them.
        return ((squares + squares.mean(dim=0)) / 2).sqrt().clamp(min=1e-12)


def _normal_tail(x: Tensor) -> Tensor:
    return torch.special.erfc(x / math.sqrt(2)) / 2
