"""How outputs differ from the original's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """How outputs differ.

    Attributes:
        error: 2-norm of the difference as a share of the original's, the worst call's.
        overall: the same of all calls together.
        agreement: share of the images whose class is the original's; NaN where outputs are no scores.
        lost: points of top-1 accuracy lost; NaN without labels.
        right: share of the images whose class is their label; NaN without labels.
        psnr: peak signal-to-noise ratio over all calls, dB; NaN where outputs are no images, or equal.
    """

    error: float
    overall: float
    agreement: float = math.nan
    lost: float = math.nan
    right: float = math.nan
    psnr: float = math.nan


def compare(
    actual: list[Tensor], expected: list[Tensor], labels: Tensor | None = None, brightest: float = math.nan
) -> Comparison:
    """Compare outputs, call by call, with the original's.

    Args:
        actual: of each call.
        expected: the original's.
        labels: classes of all images, int64 (images,).
        brightest: an output's largest value, where outputs are images.
    """
    error = max(relative_error(a, e) for a, e in zip(actual, expected, strict=True))
    all_actual, all_expected = torch.cat(actual), torch.cat(expected)
    overall = relative_error(all_actual, all_expected)
    if all_expected.dim() != 2:
        return Comparison(error, overall, psnr=_psnr(all_actual, all_expected, brightest))
    after, before = all_actual.argmax(dim=1), all_expected.argmax(dim=1)
    agreement = _share(after == before)
    if labels is None:
        return Comparison(error, overall, agreement)
    right = _share(after == labels)
    return Comparison(error, overall, agreement, 100 * (_share(before == labels) - right), right)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """2-norm of the difference as a share of the expected output's."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def _psnr(actual: Tensor, expected: Tensor, brightest: float) -> float:
    noise = float((actual.double() - expected.double()).square().mean())
    return 10 * math.log10(brightest**2 / noise) if noise else math.nan


def _share(chosen: Tensor) -> float:
    return float(chosen.double().mean())
