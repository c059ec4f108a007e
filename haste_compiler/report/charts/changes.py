"""What the methods changed of each layer's output, and what they promise at most."""

from __future__ import annotations

from bokeh.models import NumeralTickFormatter

from haste_compiler.report import colours
from haste_compiler.report.charts.figures import Chart, rows_figure
from haste_compiler.report.evidence import Evidence

_LEAST = 1e-9
"""What has no logarithm is drawn here."""


def bounds_chart(evidence: Evidence) -> Chart | None:
    """A row a layer with a bound: the change that was measured on the left of it; None: no method gives one."""
    layers = [(each.name, each.bound, each.change) for each in evidence.layers if each.bound is not None]
    if not layers:
        return None
    names = [name for name, _, _ in layers]
    bounds = [max(bound or 0.0, _LEAST) for _, bound, _ in layers]
    plot = rows_figure(names, "2-norm of the change of the output", x_axis_type="log")
    measured = [(name, max(change.error, _LEAST)) for name, _, change in layers if change is not None]
    if measured:
        rows, errors = zip(*measured, strict=True)
        ends = [bounds[names.index(row)] for row in rows]
        plot.segment(list(errors), list(rows), ends, list(rows), line_color=colours.GREY, line_alpha=0.6)
        plot.scatter(list(errors), list(rows), size=9, color=colours.BLUE)
    plot.scatter(bounds, names, size=12, marker="dash", angle=1.5708, line_width=3, color=colours.VERMILION)
    return Chart(plot, {"measured": colours.BLUE, "bound": colours.VERMILION})


def changes_chart(evidence: Evidence) -> Chart | None:
    """A bar a layer: the change over the plain layer's output, on the same input; None: no definition says it."""
    layers = [(each.name, each.change.relative) for each in evidence.layers if each.change is not None]
    if not layers:
        return None
    names, changes = (list(column) for column in zip(*layers, strict=True))
    plot = rows_figure(names, "relative change of the output", x_range=(0, 1.05 * max(*changes, _LEAST)))
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[00]%")
    plot.hbar(y=names, right=changes, height=0.7, color=colours.BLUE)
    return Chart(plot)
