"""What a compiled network must reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

from haste_compiler.errors import InputError
from haste_compiler.validation.report import ThresholdError, ValidationReport


@dataclass(frozen=True)
class Thresholds:
    """Limits on a report's fields of the same names; None: any value will do.

    Raises:
        InputError: a limit is no number or NaN.
    """

    max_rel_error: float | None = None
    min_agreement: float | None = None
    min_mac_reduction: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or math.isnan(limit):
                raise InputError(f"{name} must be a number or None, not {limit!r}")

    def check(self, report: ValidationReport) -> None:
        """Compare a report with the limits.

        Raises:
            ThresholdError: it misses some; the message names all of them.
        """
        missed = [
            _missed("max_rel_error", report.max_rel_error, "at most", self.max_rel_error),
            _missed("agreement", report.agreement, "at least", self.min_agreement),
            _missed("mac_reduction", report.mac_reduction, "at least", self.min_mac_reduction),
            _missed("speedup", report.speedup, "at least", self.min_speedup),
        ]
        reasons = [reason for reason in missed if reason]
        if reasons:
            raise ThresholdError("; ".join(reasons), report)


def _missed(name: str, value: float | None, sense: str, limit: float | None) -> str:
    if limit is None:
        return ""
    if value is None:
        return f"{name} must be {sense} {limit:g}, but there is none"
    # Written so that NaN misses every limit.
    met = value <= limit if sense == "at most" else value >= limit
    return "" if met else f"{name} is {value:.6g}, must be {sense} {limit:g}"
