"""How far a network's outputs are from the original's, and whether that keeps a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from haste_compiler.search.budget import Budget
from haste_compiler.search.images import Images


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
        margins: half-widths of one-sided confidence intervals of ``output_error``, ``agreement``, ``expected_drop``.
    """

    output_error: float
    agreement: float | None
    accuracy: float | None
    accuracy_drop: float | None
    expected_drop: float | None
    margins: tuple[float, float, float]

    def keeps(self, budget: Budget) -> bool:
        """Whether it keeps a limit, its confidence margin included; True for a limit on something else."""
        error, disagreement, drop = self.margins
        if budget.kind == "max_output_error":
            return self.output_error + error <= budget.limit
        if budget.kind == "min_agreement":
            return self.agreement is not None and self.agreement - disagreement >= budget.limit
        if budget.kind == "max_accuracy_drop":
            assert self.expected_drop is not None and self.accuracy_drop is not None
            return self.expected_drop + drop <= budget.limit and self.accuracy_drop <= budget.limit
        return True


class Judge:
    """Compares outputs with the original's on the same images.

    Args:
        images: with the original's outputs.
        confidence: of the margins, one-sided.
        temperature: the original's scores are divided by it before they become probabilities.
    """

    def __init__(self, images: Images, confidence: float, temperature: float) -> None:
        self._images, self._z = images, NormalDist().inv_cdf(confidence)
        self._probabilities: Tensor | None = None
        if images.scores is not None:
            self._probabilities = (log_scores(images.outputs[images.scores]) / temperature).softmax(dim=1)

    def judge(self, outputs: Sequence[Tensor]) -> Quality:
        """Compare outputs, float64 (count, ...) each, in the order of the original's."""
        errors = [_relative_error(mine, theirs) for mine, theirs in zip(self._images.outputs, outputs, strict=True)]
        error, error_margin = max(((value, self._z * deviation) for value, deviation in errors), key=sum)
        if self._probabilities is None or self._images.scores is None:
            return Quality(error, None, None, None, None, (error_margin, 0.0, 0.0))
        original, found = self._images.outputs[self._images.scores], outputs[self._images.scores]
        expected, best = original.argmax(dim=1), found.argmax(dim=1)
        # A row with NaN has no class.
        same = (expected == best) & ~found.isnan().any(dim=1)
        rows = torch.arange(len(best))
        drops = self._probabilities[rows, expected] - torch.where(
            found.isnan().any(dim=1), 0.0, self._probabilities[rows, best]
        )
        agreement, expected_drop = float(same.double().mean()), float(drops.mean())
        accuracy, accuracy_drop = None, expected_drop
        if self._images.labels is not None:
            accuracy = float(((best == self._images.labels) & ~found.isnan().any(dim=1)).double().mean())
            accuracy_drop = float((expected == self._images.labels).double().mean()) - accuracy
        margins = (error_margin, _wilson(1 - agreement, len(best), self._z), self._z * _deviation_of_mean(drops))
        return Quality(error, agreement, accuracy, accuracy_drop, expected_drop, margins)


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


def _relative_error(original: Tensor, found: Tensor) -> tuple[float, float]:
    """Relative error of the norm, and its standard deviation over draws of the images (the delta method)."""
    errors = (found - original).square().flatten(1).sum(dim=1)
    sizes = original.square().flatten(1).sum(dim=1)
    total = float(sizes.sum())
    if not math.isfinite(float(errors.sum())) or total == 0:
        return (0.0, 0.0) if float(errors.sum()) == 0 else (math.inf, 0.0)
    square = float(errors.sum()) / total
    spread = float((errors - square * sizes).square().sum()) ** 0.5 / total
    error = square**0.5
    return error, spread / (2 * error) if error else 0.0


def _wilson(part: float, count: int, z: float) -> float:
    """How far above a part seen in ``count`` the true one may lie (Wilson's score interval, one-sided)."""
    centre = part + z * z / (2 * count)
    spread = z * math.sqrt(part * (1 - part) / count + z * z / (4 * count * count))
    return (centre + spread) / (1 + z * z / count) - part


def _deviation_of_mean(values: Tensor) -> float:
    return float(values.std(correction=0)) / math.sqrt(len(values)) if len(values) else 0.0
