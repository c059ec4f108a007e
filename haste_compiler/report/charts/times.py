"""The time of every layer, in its phases, beside the dense compile's and the least that the machine could take."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource

from haste_compiler.report import colours
from haste_compiler.report.charts.figures import Chart, rows_figure
from haste_compiler.report.evidence import Evidence, LayerEvidence

_COLOURS = (colours.BLUE, colours.ORANGE, colours.GREEN, colours.PURPLE)


def times_chart(evidence: Evidence) -> Chart | None:
    """A bar a layer; None: nothing was timed."""
    layers = [layer for layer in evidence.layers if layer.seconds is not None]
    if not layers:
        return None
    names = [layer.name for layer in layers]
    plot = rows_figure(names, "milliseconds", x_range=(0, 1.05 * max(map(_longest, layers))))
    parts = [_parts(layer) for layer in layers]
    kinds = list(dict.fromkeys(kind for part in parts for kind in part))
    data: dict[str, list[object]] = {"layer": list(names)}
    data |= {kind: [1e3 * part.get(kind, 0.0) for part in parts] for kind in kinds}
    painted = [_COLOURS[place % len(_COLOURS)] for place in range(len(kinds))]
    plot.hbar_stack(kinds, y="layer", height=0.7, color=painted, source=ColumnDataSource(data))
    dash: dict[str, Any] = {"marker": "dash", "angle": 1.5708, "line_width": 3, "color": colours.VERMILION}
    diamond: dict[str, Any] = {"marker": "diamond", "fill_color": "white", "line_color": "black"}
    marks: dict[str, str] = {}
    for name, look, values in (
        ("dense compile", dash, [layer.dense_seconds for layer in layers]),
        ("roofline of the plain layer", diamond, [layer.roof_seconds for layer in layers]),
    ):
        known = [(layer.name, 1e3 * value) for layer, value in zip(layers, values, strict=True) if value is not None]
        if known:
            rows, milliseconds = zip(*known, strict=True)
            plot.scatter(list(milliseconds), list(rows), size=11, **look)
            marks[name] = look.get("color", "white")
    return Chart(plot, {**dict(zip(kinds, painted, strict=True)), **marks})


def _parts(layer: LayerEvidence) -> dict[str, float]:
    """Seconds by phase: what its kernels are called, without the numbers that tell them apart."""
    found: dict[str, float] = {}
    for symbol, seconds in (layer.phases or {"layer": layer.seconds or 0.0}).items():
        kind = "_".join(part for part in symbol.split("_") if not part.isdigit()).replace("_", " ")
        found[kind if layer.phases else "one kernel"] = found.get(kind, 0.0) + seconds
    return found


def _longest(layer: LayerEvidence) -> float:
    return 1e3 * max(layer.seconds or 0.0, layer.dense_seconds or 0.0, layer.roof_seconds or 0.0)
