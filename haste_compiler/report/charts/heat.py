"""The input, and how much work each tile of it took in a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJS,
    LinearColorMapper,
    NumeralTickFormatter,
    Select,
    Slider,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report import colours
from haste_compiler.report.charts.figures import plain_figure, widget_style
from haste_compiler.report.evidence import Evidence
from haste_compiler.report.pictures import as_rgba

_WIDTH = 320
"""Pixels of a picture on the page: two fit on a tablet, one on a telephone."""

_ALPHA = 0.65
"""Of the heat map over the image, at first."""


def picture_figure(image: NDArray[np.float32], title: str) -> figure:
    """A figure of the input's proportions, (0, 0) in its lower left and (1, 1) in its upper right corner."""
    height, width = image.shape[1:]
    plot = plain_figure(x_range=(0, 1), y_range=(0, 1), title=title, tools="")
    plot.sizing_mode, plot.frame_width, plot.frame_height = None, _WIDTH, round(_WIDTH * height / width)
    plot.axis.visible = plot.xgrid.visible = plot.ygrid.visible = False
    plot.min_border_left = plot.min_border_right = 4
    return plot


def input_chart(image: NDArray[np.float32]) -> figure:
    """The input as it is."""
    plot = picture_figure(image, "input")
    plot.image_rgba(image=[as_rgba(image)], x=0, y=0, dw=1, dh=1)
    return plot


def heat_chart(evidence: Evidence, layer: Select) -> tuple[Slider, figure] | None:
    """The input in grey under the map of the layer that is chosen, and the control of how much shows through.

    None: there is no image, or no layer has a map.
    """
    maps = {each.name: each.work for each in evidence.layers if each.work is not None}
    image = evidence.image
    if image is None or not maps:
        return None
    store = ColumnDataSource(_columns(maps))
    shown = ColumnDataSource({key: [] for key in store.data if key != "name"})
    plot = picture_figure(image, "")
    plot.image_rgba(image=[as_rgba(image, grey=True)], x=0, y=0, dw=1, dh=1)
    mapper = LinearColorMapper(palette=colours.SCALE, low=0.0, high=1.0)
    heat = plot.image(
        image="image", x=0, y="y", dw="dw", dh="dh", color_mapper=mapper, global_alpha=_ALPHA, source=shown, name="heat"
    )
    bar = ColorBar(color_mapper=mapper, title="share of the tile's work", height=10, background_fill_color=None)
    bar.formatter = NumeralTickFormatter(format="0%")
    plot.add_layout(bar, "below")
    slider = Slider(
        start=0,
        end=1,
        step=0.05,
        value=_ALPHA,
        title="heat map over the image",
        width=_WIDTH,
        stylesheets=[widget_style()],
    )
    slider.js_on_change("value", CustomJS(args={"glyph": heat.glyph}, code="glyph.global_alpha = cb_obj.value"))
    arguments = {"store": store, "shown": shown, "title": plot.title}
    layer.js_on_change("value", CustomJS(args=arguments, code=_CHOSEN))
    first = next((name for name in maps if name == layer.value), None)
    plot.title.text = _title(str(layer.value), maps.get(str(layer.value)))
    if first is not None:
        place = list(maps).index(first)
        shown.data = {key: [store.data[key][place]] for key in shown.data}
    return slider, plot


_CHOSEN = """
const index = Array.from(store.data.name).indexOf(cb_obj.value)
const row = {}
for (const key of Object.keys(shown.data)) row[key] = index < 0 ? [] : [store.data[key][index]]
shown.data = row
title.text = index < 0 ? "no map: work doesn't depend on the place" : store.data.title[index]
"""


def _title(name: str, work: WorkMap | None) -> str:
    return "no map: work doesn't depend on the place" if work is None else f"{work.mean:.0%} of the work: {work.of}"


def _columns(maps: dict[str, WorkMap]) -> dict[str, list[Any]]:
    """A row for each map: it may reach beyond the image at the right and lower end, where the last tiles do."""
    columns: dict[str, list[Any]] = {key: [] for key in ("name", "title", "image", "y", "dw", "dh")}
    for name, work in maps.items():
        down, across = (
            count * side / whole for count, side, whole in zip(work.share.shape, work.tile, work.plane, strict=True)
        )
        values = (name, _title(name, work), work.share[::-1].copy(), 1 - down, across, down)
        for key, value in zip(columns, values, strict=True):
            columns[key].append(value)
    return columns
