"""What became of channels, tiles and tokens, and how the work that is left is spread over the image."""

from __future__ import annotations

import numpy as np
from bokeh.models import ColorBar, ColumnDataSource, LinearColorMapper, NumeralTickFormatter

from haste_compiler.report import colours
from haste_compiler.report.charts.figures import Chart, rows_figure
from haste_compiler.report.evidence import Evidence

_BINS = 20


def kept_chart(evidence: Evidence) -> Chart | None:
    """The shares that were kept, merged and skipped, a bar a layer; None: nothing is decided about anywhere."""
    layers = [layer for layer in evidence.layers if layer.tally is not None]
    if not layers:
        return None
    key = {"kept": colours.BLUE, "merged": colours.ORANGE, "skipped": colours.SKY}
    data: dict[str, list[object]] = {"layer": [layer.name for layer in layers]}
    for kind in key:
        data[kind] = [layer.tally.share(getattr(layer.tally, kind)) for layer in layers if layer.tally is not None]
    plot = rows_figure([layer.name for layer in layers], "share", x_range=(0, 1))
    plot.xaxis.formatter = NumeralTickFormatter(format="0%")
    plot.hbar_stack(list(key), y="layer", height=0.7, color=list(key.values()), source=ColumnDataSource(data))
    return Chart(plot, key)


def spread_chart(evidence: Evidence) -> Chart | None:
    """A row a layer: how many of its tiles took which share of the work; None: no layer has a map."""
    layers = [(layer.name, layer.work) for layer in evidence.layers if layer.work is not None]
    if not layers:
        return None
    names, rows, left, share = [name for name, _ in layers], [], [], []
    for name, work in layers:
        counts, edges = np.histogram(work.share, bins=_BINS, range=(0.0, 1.0))
        for count, edge in zip(counts, edges, strict=False):
            if count:
                rows.append(name)
                left.append(float(edge) + 0.5 / _BINS)
                share.append(count / work.share.size)
    plot = rows_figure(names, "share of a tile's work that was done", x_range=(0, 1))
    plot.xaxis.formatter = NumeralTickFormatter(format="0%")
    mapper = LinearColorMapper(palette=colours.SCALE, low=0.0, high=max(share))
    plot.rect(
        "left", "rows", 1 / _BINS, 0.9, fill_color={"field": "share", "transform": mapper}, line_color=None,
        source=ColumnDataSource({"left": left, "rows": rows, "share": share}),
    )  # fmt: skip
    bar = ColorBar(color_mapper=mapper, title="share of the tiles", height=10, background_fill_color=None)
    bar.formatter = NumeralTickFormatter(format="0%")
    plot.add_layout(bar, "below")
    return Chart(plot)
