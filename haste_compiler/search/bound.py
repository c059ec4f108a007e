"""How large a mean may be of which a sample was seen, and how many images it takes to keep a budget."""

from __future__ import annotations

import itertools
import math

import numpy as np
from torch import Tensor

from haste_compiler.errors import InputError
from haste_compiler.search.budget import Budget
from haste_compiler.search.images import tried

_DRAWS = 10_000
_CHUNKS = 10
_STEPS = 1000

_FEWEST = 6
"""Images held out, at least, where what the worst of them shows is held against those that nobody saw."""


def upper_bound(values: Tensor, confidence: float) -> float:
    """Bound of the mean that values between 0 and 1 have in all, one-sided.

    Gaffke's bound (Learned-Miller and Thomas, A New Confidence Interval for the Mean of a Bounded Random Variable,
    2019): the quantile of the sum of the values and of a 1 nobody saw, under weights drawn from a flat Dirichlet
    distribution. Of values that are 0 or 1 it is the exact one (Clopper and Pearson), however few or rare the ones are.

    Args:
        values: (N,), N at least 1.
        confidence: that the mean is no larger, 0 to 0.999.
    """
    # Rounded up to a thousandth of the largest, there are few different ones.
    step = max(float(values.max()) / _STEPS, 1e-300)
    levels, counts = (values.double() / step).ceil().mul(step).unique(return_counts=True)
    count = len(values)
    generator = np.random.default_rng(0)
    chunks = (generator.dirichlet(counts.numpy(), _DRAWS // _CHUNKS) for _ in range(_CHUNKS))
    seen = np.concatenate([chunk @ levels.numpy() for chunk in chunks])
    # The weight of what nobody saw, at its quantiles: where all values are 0 they are all that there is.
    unseen = 1 - (1 - (np.arange(_DRAWS) + 0.5) / _DRAWS) ** (1 / count)
    return float(np.quantile(unseen + (1 - unseen) * seen, confidence, method="higher"))


def images_needed(budget: Budget, confidence: float) -> int:
    """How many images a search needs to keep a budget, if it finds no fault on any of those that are held out."""
    if not budget.on_quality:
        return 2
    held_out = _FEWEST
    if budget.needs_scores:
        allowed = _allowed(budget)
        first = max(1, math.floor(math.log1p(-_quantile(confidence)) / math.log1p(-allowed)))
        held_out = next(count for count in itertools.count(first) if _faultless(count, confidence) <= allowed)
    return next(count for count in itertools.count(held_out) if count - tried(count) >= held_out)


def check_enough(budget: Budget, confidence: float, count: int) -> None:
    """Check that so many images can keep a budget.

    Raises:
        InputError: they can't, even if nothing is wrong with any of those that are held out.
    """
    needed = images_needed(budget, confidence)
    if count >= needed:
        return
    if not budget.needs_scores:
        raise InputError(f"{count} images are too few for {budget.kind}: allowed are {needed} or more")
    held_out = count - tried(count)
    least = _faultless(held_out, confidence) if held_out else 1.0
    shown = f"an agreement of {1 - least:.1%}" if budget.kind == "min_agreement" else f"a drop below {least:.1%}"
    raise InputError(
        f"{budget.kind}={budget.limit:g} can't be shown on {count} images: {held_out} are held out, and if none of "
        f"them changes its class that shows {shown} with {confidence:.0%} confidence; give {needed} images or more, "
        f"or another limit"
    )


def _allowed(budget: Budget) -> float:
    return 1 - budget.limit if budget.kind == "min_agreement" else budget.limit


def _faultless(count: int, confidence: float) -> float:
    """``upper_bound`` of so many zeros."""
    return 1 - (1 - _quantile(confidence)) ** (1 / count)


def _quantile(confidence: float) -> float:
    """Which of the quantiles, of which there are as many as draws, ``upper_bound`` takes."""
    return (math.ceil(confidence * (_DRAWS - 1)) + 0.5) / _DRAWS
