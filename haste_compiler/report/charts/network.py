"""The network as a graph, from its input at the top to its outputs."""

from __future__ import annotations

import networkx as nx
import numpy as np
from bokeh.models import ColumnDataSource, CustomJS, HoverTool, RadioButtonGroup, Select, TapTool
from bokeh.plotting import figure

from haste_compiler.report import colours
from haste_compiler.report.charts.figures import plain_figure, widget_style
from haste_compiler.report.evidence import Evidence, LayerEvidence

COLOURINGS = ("time", "work saved", "method")

_ACROSS, _DOWN = 190, 34
"""Pixels from one layer to the next."""

_BOX = (0.86, 0.7)
"""Width and height of a box, in these."""

_LETTERS = 25
_MOST_HEIGHT = 24_000
"""Pixels: browsers draw no larger canvas."""


def network_chart(evidence: Evidence, layer: Select) -> tuple[RadioButtonGroup, figure]:
    """The graph, a box a layer, and the control that says what boxes are coloured by.

    Args:
        evidence: of the network.
        layer: is set to the layer that is clicked, and marks the one that it is set to.
    """
    graph = evidence.graph
    places = _places(graph)
    boxes = ColumnDataSource(_boxes(evidence, places))
    rows, columns = (1 + max(place[axis] for place in places.values()) for axis in (1, 0))
    plot = plain_figure(
        height=min(_MOST_HEIGHT, round(_DOWN * (rows + 1))),
        y_range=(rows - 0.4, -0.6),
        x_range=(-0.5, columns - 0.1),
        tools="",
        min_width=round(_ACROSS * (columns + 0.4)),
    )
    plot.axis.visible = plot.xgrid.visible = plot.ygrid.visible = False
    plot.quadratic(
        line_width=1.5, line_color=colours.GREY, line_alpha=0.8, source=ColumnDataSource(_arrows(graph, places))
    )
    drawn = plot.rect(
        "x", "y", *_BOX, source=boxes, name="boxes", fill_color="colour", line_color=colours.GREY, border_radius=4,
        nonselection_fill_alpha=1.0, selection_line_color=colours.VERMILION, selection_line_width=4,
        nonselection_line_color=colours.GREY, nonselection_line_alpha=1.0,
    )  # fmt: skip
    plot.text(
        "x", "y", text="label", source=boxes, text_color="ink", text_font_size="11px", text_align="center",
        text_baseline="middle", nonselection_text_alpha=1.0,
    )  # fmt: skip
    tips = [("layer", "@name"), ("method", "@title"), ("time", "@said_time"), ("work saved", "@said_saved")]
    plot.add_tools(TapTool(renderers=[drawn]), HoverTool(renderers=[drawn], tooltips=tips))
    boxes.selected.js_on_change("indices", CustomJS(args={"boxes": boxes, "layer": layer}, code=_CLICKED))
    layer.js_on_change("value", CustomJS(args={"boxes": boxes}, code=_CHOSEN))
    boxes.selected.indices = [place for place, name in enumerate(boxes.data["name"]) if name == layer.value]
    control = RadioButtonGroup(labels=list(COLOURINGS), active=0, name="colouring", stylesheets=[widget_style()])
    control.js_on_change("active", CustomJS(args={"boxes": boxes}, code=_COLOURED))
    return control, plot


_CLICKED = """
const index = boxes.selected.indices[0]
if (index !== undefined && layer.options.includes(boxes.data.name[index])) layer.value = boxes.data.name[index]
"""

_CHOSEN = """
const index = Array.from(boxes.data.name).indexOf(cb_obj.value)
if (boxes.selected.indices[0] !== index) boxes.selected.indices = index < 0 ? [] : [index]
"""

_COLOURED = """
const by = ["time", "saved", "method"][cb_obj.active]
boxes.data = {...boxes.data, colour: boxes.data["colour_" + by], ink: boxes.data["ink_" + by]}
"""


def _places(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Column and row of every node, from 0 on: a row for each step from the input."""
    rows = {name: row for row, names in enumerate(nx.topological_generations(graph)) for name in names}
    nx.set_node_attributes(graph, rows, "row")
    layout = nx.multipartite_layout(graph, subset_key="row", align="horizontal")
    across = np.array([layout[name][0] for name in graph])
    widest = max(list(rows.values()).count(row) for row in set(rows.values()))
    step = float(np.ptp(across)) / (widest - 1) if widest > 1 else 1.0
    return {name: (float(layout[name][0] - across.min()) / step, float(rows[name])) for name in graph}


def _boxes(evidence: Evidence, places: dict[str, tuple[float, float]]) -> dict[str, list[object]]:
    """A row of the source for each node."""
    layers: dict[str, LayerEvidence] = {layer.name: layer for layer in evidence.layers}
    of_methods = colours.of_methods(evidence)
    most = max((layer.seconds or 0.0 for layer in evidence.layers), default=0.0)
    columns: dict[str, list[object]] = {}
    for name, (across, down) in places.items():
        layer = layers.get(name)
        if layer is None:
            painted = dict.fromkeys(("time", "saved", "method"), "#CFCFCF")
        else:
            painted = {
                "time": colours.on_scale(layer.seconds or 0.0, most),
                "saved": colours.on_scale(max(layer.macs.reduction, 0.0), 1.0),
                "method": of_methods[layer.title],
            }
        row: dict[str, object] = {
            "x": across,
            "y": down,
            "name": name,
            "label": name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}",
            "title": "" if layer is None else layer.title,
            "said_time": "" if layer is None or layer.seconds is None else f"{1e3 * layer.seconds:.3g} ms",
            "said_saved": "" if layer is None or not layer.macs.dense else f"{layer.macs.reduction:.0%}",
            "colour": painted["time"],
            "ink": colours.ink_on(painted["time"]),
        }
        for by, colour in painted.items():
            row |= {f"colour_{by}": colour, f"ink_{by}": colours.ink_on(colour)}
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns


def _arrows(graph: nx.DiGraph, places: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    """Lines between boxes; what passes over others goes round them on the right."""
    columns: dict[str, list[float]] = {key: [] for key in ("x0", "y0", "x1", "y1", "cx", "cy")}
    width, height = _BOX[0] / 2, _BOX[1] / 2
    for source, target in graph.edges:
        (x0, y0), (x1, y1) = places[source], places[target]
        steps = y1 - y0
        if steps > 1:
            ends = (x0 + width, y0, x1 + width, y1, max(x0, x1) + width + min(0.12 + 0.06 * steps, 0.7), (y0 + y1) / 2)
        else:
            ends = (x0, y0 + height, x1, y1 - height, (x0 + x1) / 2, (y0 + y1) / 2)
        for key, value in zip(columns, ends, strict=True):
            columns[key].append(value)
    return columns
