"""The first numbers of a report: what compiling came to, beside the dense network and the limits that were set."""

from __future__ import annotations

from dataclasses import dataclass

from haste_compiler.report.evidence import Evidence
from haste_compiler.validation.thresholds import Thresholds, Verdict

_HUNDRED = 99.95


@dataclass(frozen=True)
class Number:
    """One of them.

    Attributes:
        title: what it is.
        value: as it is read.
        note: what it is held against.
        verdict: on the limit that was set for it; None: there is none.
    """

    title: str
    value: str
    note: str
    verdict: Verdict | None = None


def headline(evidence: Evidence, limits: Thresholds) -> list[Number]:
    """Speed, arithmetic, agreement, error, file and energy, as far as they are known."""
    report = evidence.report
    verdicts = {verdict.name: verdict for verdict in limits.judge(report)}
    found = []
    if report.times is not None:
        times = report.times
        beside = f"{_ms(times.compiled.best)} a call, dense {_ms(times.dense.best)} (best of {times.rounds} rounds)"
        found.append(
            Number("speed", f"{times.speedup:.2f} ×", f"the dense compile's; {beside}", verdicts.get("speedup"))
        )
        beside = f"of PyTorch, which takes {_ms(times.original.best)} on {_threads(times.threads)}"
        found.append(Number("speed", f"{times.original_speedup:.2f} ×", beside))
    saved = f"of {report.macs.dense / report.images / 1e6:,.0f} million multiply-adds an image saved, overheads counted"
    found.append(Number("arithmetic", f"{report.mac_reduction:.1%}", saved, verdicts.get("mac_reduction")))
    images = f"{report.images} image{'s' if report.images > 1 else ''}"
    if report.agreement is not None:
        found.append(
            Number("agreement", f"{report.agreement:.1%}", f"same class on {images}", verdicts.get("agreement"))
        )
    if report.accuracy is not None:
        original = f"of {report.accuracy.images} labelled images right; the original {report.accuracy.original:.1%}"
        found.append(Number("accuracy", f"{report.accuracy.compiled:.1%}", original))
    worst = f"of the outputs, in the worst batch of {images}"
    found.append(Number("relative error", f"{report.max_rel_error:.2%}", worst, verdicts.get("max_rel_error")))
    weights = f"the model's weights are {_mb(evidence.weight_bytes)}"
    size = "none" if evidence.file_bytes is None else _mb(evidence.file_bytes)
    found.append(Number("file", size, evidence.file_obstacle or f"saved, machine code and all; {weights}"))
    energy = report.energy
    if energy.compiled:
        model = f"an image, products only, by a published 7 nm table; dense float32 {_three(energy.float32)} µJ"
        found.append(Number("energy", f"{_three(energy.compiled)} µJ", model))
    return found


def _ms(seconds: float) -> str:
    return f"{_three(1e3 * seconds)} ms"


def _three(number: float) -> str:
    """With three digits, or as many as are before the point."""
    return f"{number:,.0f}" if number >= _HUNDRED else f"{number:.3g}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
