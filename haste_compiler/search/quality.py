"""How far a network's outputs are from the original's, and whether that keeps a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haste_compiler.search.bound import upper_bound
from haste_compiler.search.budget import Budget
from haste_compiler.search.images import Images

_UNSEEN = 2.0
"""How much larger than the worst error that was seen one may be that wasn't."""


@dataclass(frozen=True)
class Quality:
    """What compressing did to the outputs.

    Attributes:
        output_error: 2-norm of the outputs' difference over that of the original's, the largest of all outputs.
        agreement: part of the images whose class is the original's; None where no output holds class scores.
        accuracy: part of the images whose class is the label; None without labels.
        accuracy_drop: what compressing costs in accuracy: with labels as they show it; without, the estimate below.
        expected_drop: mean over the images of ``p(original's class) - p(class found)``, with p the original's
            probabilities: the accuracy that is lost if they are right.
        bounds: how large ``output_error``, the part of images whose class differs, and ``expected_drop`` may be on
            other images, one-sided.
    """

    output_error: float
    agreement: float | None
    accuracy: float | None
    accuracy_drop: float | None
    expected_drop: float | None
    bounds: tuple[float, float, float]

    def keeps(self, budget: Budget) -> bool:
        """Whether its bounds keep a limit; True for a limit on something else."""
        error, disagreement, drop = self.bounds
        if budget.kind == "max_output_error":
            return error <= budget.limit
        if budget.kind == "min_agreement":
            return disagreement <= 1 - budget.limit
        if budget.kind == "max_accuracy_drop":
            assert self.accuracy_drop is not None
            return drop <= budget.limit and self.accuracy_drop <= budget.limit
        return True


class Judge:
    """Compares outputs with the original's on the same images.

    Args:
        images: with the original's outputs.
        confidence: of the bounds, one-sided.
        temperature: the original's scores are divided by it before they become probabilities.
    """

    def __init__(self, images: Images, confidence: float, temperature: float) -> None:
        self._images, self._confidence = images, confidence
        self._probabilities: Tensor | None = None
        if images.scores is not None:
            self._probabilities = (log_scores(images.outputs[images.scores]) / temperature).softmax(dim=1)

    def judge(self, outputs: Sequence[Tensor]) -> Quality:
        """Compare outputs, float64 (count, ...) each, in the order of the original's."""
        pairs = zip(self._images.outputs, outputs, strict=True)
        errors = [_relative_error(mine, theirs, self._confidence) for mine, theirs in pairs]
        error, error_bound = max(errors, key=lambda each: each[1])
        if self._probabilities is None or self._images.scores is None:
            return Quality(error, None, None, None, None, (error_bound, 0.0, 0.0))
        original, found = self._images.outputs[self._images.scores], outputs[self._images.scores]
        expected, best = original.argmax(dim=1), found.argmax(dim=1)
        # A row with NaN has no class.
        same = (expected == best) & ~found.isnan().any(dim=1)
        rows = torch.arange(len(best))
        drops = self._probabilities[rows, expected] - torch.where(
            found.isnan().any(dim=1), 0.0, self._probabilities[rows, best]
        )
        agreement, expected_drop = float(same.double().mean()), float(drops.mean())
        disagreement_bound, drop_bound = (upper_bound(each, self._confidence) for each in (~same, drops))
        bounds = (error_bound, disagreement_bound, drop_bound)
        accuracy, accuracy_drop = None, expected_drop
        if self._images.labels is not None:
            accuracy = float(((best == self._images.labels) & ~found.isnan().any(dim=1)).double().mean())
            accuracy_drop = float((expected == self._images.labels).double().mean()) - accuracy
        return Quality(error, agreement, accuracy, accuracy_drop, expected_drop, bounds)


def log_scores(scores: Tensor) -> Tensor:
    """Scores as softmax takes them: logarithms where the network itself returns probabilities."""
    sums_to_one = bool(((scores.sum(dim=1) - 1).abs() < 1e-3).all()) and bool((scores >= 0).all())
    return scores.clamp(min=1e-12).log() if sums_to_one else scores


def calibrated_temperature(images: Images) -> float:
    """Temperature that makes the original's probabilities likeliest to give the labels; 1 without labels.

    Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """
    if images.labels is None or images.scores is None:
        return 1.0
    scores = log_scores(images.outputs[images.scores])
    temperatures = torch.logspace(-1, 1, 201, dtype=torch.float64)
    losses = [float(torch.nn.functional.cross_entropy(scores / t, images.labels)) for t in temperatures]
    return float(temperatures[losses.index(min(losses))])


def _relative_error(original: Tensor, found: Tensor, confidence: float) -> tuple[float, float]:
    """Relative error of the norm, and how large it may be if no image's error is more than twice the worst seen."""
    errors = (found - original).square().flatten(1).sum(dim=1)
    mean_size = float(original.square().flatten(1).sum(dim=1).mean())
    if not errors.any():
        return 0.0, 0.0
    if not bool(errors.isfinite().all()) or mean_size == 0:
        return math.inf, math.inf
    most = _UNSEEN**2 * float(errors.max())
    bound = most * upper_bound(errors / most, confidence)
    return (float(errors.mean()) / mean_size) ** 0.5, (bound / mean_size) ** 0.5
