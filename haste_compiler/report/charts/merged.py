"""Channels, tokens and tiles that were taken as one, side by side."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, CustomJS, LinearColorMapper, Select
from bokeh.plotting import figure

from haste_compiler.report import colours
from haste_compiler.report.charts.figures import plain_figure
from haste_compiler.report.charts.heat import picture_figure
from haste_compiler.report.evidence import Evidence
from haste_compiler.report.pictures import GROUPS, MEMBERS, group_colours, mosaic

_CELL = 34
"""Pixels of a window on the page."""


def channels_chart(evidence: Evidence, layer: Select) -> figure | None:
    """The groups of the patch in which most channels merged, of the layer that is chosen; None: no layer has any."""
    rows = {each.name: mosaic(each.merged) for each in evidence.layers if each.merged is not None}
    if not rows:
        return None
    cells = (MEMBERS + 2, GROUPS)
    plot = plain_figure(x_range=(0, cells[0]), y_range=(0, cells[1]), title="merged | channels", tools="")
    plot.sizing_mode, plot.frame_width, plot.frame_height = None, _CELL * cells[0], _CELL * cells[1]
    mapper = LinearColorMapper(palette=colours.SCALE, low=1, high=255, low_color="rgba(0, 0, 0, 0)")
    shown = _switched(layer, rows, plot)
    plot.image(image="image", x=0, y=0, dw=cells[0], dh=cells[1], color_mapper=mapper, source=shown, name="channels")
    _bare(plot)
    return plot


def groups_chart(evidence: Evidence, layer: Select) -> figure | None:
    """The input with each tile in the mean colour of the tiles that were computed as one with it; None as above."""
    image = evidence.image
    works = {each.name: each.work for each in evidence.layers if each.work is not None and each.work.groups is not None}
    if image is None or not works:
        return None
    rows = {name: group_colours(image, work.groups) for name, work in works.items() if work.groups is not None}
    plot = picture_figure(image, "what was computed as one, in its mean colour")
    shown = _switched(layer, rows, plot)
    plot.image_rgba(image="image", x=0, y=0, dw=1, dh=1, source=shown, name="groups")
    return plot


def _switched(layer: Select, rows: dict[str, Any], plot: figure) -> ColumnDataSource:
    """The picture of the layer that is chosen; the plot is hidden where there is none."""
    store = ColumnDataSource({"name": list(rows), "image": list(rows.values())})
    chosen = rows.get(str(layer.value))
    shown = ColumnDataSource({"image": [] if chosen is None else [chosen]})
    plot.visible = chosen is not None
    layer.js_on_change("value", CustomJS(args={"store": store, "shown": shown, "plot": plot}, code=_CHOSEN))
    return shown


_CHOSEN = """
const index = Array.from(store.data.name).indexOf(cb_obj.value)
shown.data = {image: index < 0 ? [] : [store.data.image[index]]}
plot.visible = index >= 0
"""


def _bare(plot: figure) -> None:
    plot.axis.visible = plot.xgrid.visible = plot.ygrid.visible = False
    plot.min_border_left = plot.min_border_right = 4
