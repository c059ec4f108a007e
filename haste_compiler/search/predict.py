"""What an allocation will do to the outputs, from what each of its points does alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from haste_compiler.search.allocate import Allocation
from haste_compiler.search.budget import Budget
from haste_compiler.search.images import Images
from haste_compiler.search.quality import log_scores
from haste_compiler.search.sensitivity import Point, distances

_UNEXPLAINED = 0.35
"""Part of the shifts' rms that their sum leaves unexplained, as measured on a ResNet-18 (correlation 0.94)."""


class Predictor:
    """Adds up what points do to the outputs.

    Args:
        images: that the points were measured on.
        temperature: see ``Judge``.
        budget: what will be asked of the allocation.

    Attributes:
        by_scores: whether it looks at scores of classes, and points must tell what becomes of them.
    """

    def __init__(self, images: Images, temperature: float, budget: Budget) -> None:
        self._budget = budget
        self.by_scores = budget.kind != "max_output_error" and images.scores is not None
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
        if not points:
            return 0.0
        if not self.by_scores:
            return float(torch.stack([point.change for point in points]).sum(dim=0).norm())
        shift = torch.stack([point.shift for point in points]).sum(dim=0)
        unexplained = (_UNEXPLAINED * _rms(shift)).clamp(min=1e-12)
        overtaken = torch.special.erfc((self._distances + shift) / unexplained / math.sqrt(2)) / 2
        return float((overtaken * self._costs).sum(dim=1).clamp(max=1).mean())

    def part(self, allocation: Allocation) -> float:
        """What part of a budget on quality an allocation is predicted to use up."""
        limit = self._budget.limit
        return self.harm(allocation) / (1 - limit if self._budget.kind == "min_agreement" else limit)

    def overdraws(self, allocation: Allocation) -> bool:
        """Whether an allocation is predicted to overdraw a budget on quality."""
        return self.part(allocation) > 1

    def products(self, points: Sequence[Point], near: Allocation) -> Tensor:
        """Inner products of points, (P, P), under which an allocation's squared norm grows with its ``harm``.

        Half of it is the outputs' error. The other half counts shifts between classes, each by how much more likely it
        makes that the runner-up overtakes, for shifts as large as those of an allocation ``near`` the wanted one.
        """
        changes = torch.stack([point.change for point in points]).double()
        products = changes @ changes.T
        around = [point.shift for point in near.values() if point is not None]
        if not self.by_scores or not around:
            return products
        deviation = _rms(torch.stack(around).sum(dim=0)).clamp(min=1e-12)
        # The derivative of Phi(-m / sigma) by sigma squared, but for factors that all share.
        ratio = self._distances / deviation
        weights = (-ratio.square() / 2).exp() * ratio * self._costs
        shifts = (torch.stack([point.shift for point in points]) * weights.sqrt()).flatten(1)
        return _scaled(products) + _scaled(shifts @ shifts.T)


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


def _scaled(products: Tensor) -> Tensor:
    return products / products.diag().mean().clamp(min=1e-300)
