"""An estimate of energy as text."""

from __future__ import annotations

from haste_compiler.energy.estimate import EnergyEstimate
from haste_compiler.text import as_text, numbers


def render(estimate: EnergyEstimate) -> str:
    """The estimate as plain text: what the layers hold by kind, then the cost in each scheme beside float16's."""
    kinds = [kind for kind in estimate.macs if estimate.macs[kind] or estimate.weights[kind]]
    held = [[kind, f"{estimate.macs[kind] / 1e6:,.2f}", f"{estimate.weights[kind]:,}"] for kind in kinds]
    base = estimate.of("float16")
    costs = [
        [
            cost.scheme,
            f"{cost.microjoules:,.3f}",
            _times(base.microjoules, cost.microjoules),
            f"{cost.megabytes:,.3f}",
            _times(base.megabytes, cost.megabytes),
        ]
        for cost in estimate.costs
    ]
    title = f"Energy of products ({estimate.process}, {estimate.accumulation} sums; without memory) and storage"
    headings = ("", "µJ", "less than float16", "MB", "smaller")
    return as_text(
        numbers("Layers", ("", "M multiply-adds", "weights"), held, 1, ()), numbers(title, headings, costs, 1, ())
    )


def _times(base: float, own: float) -> str:
    return f"{base / own:.2f} ×" if own else ""
