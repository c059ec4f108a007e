"""The page: charts by Bokeh in a template of Jinja's, one file that needs nothing else."""

from __future__ import annotations

from typing import Any

import jinja2
import markupsafe
from bokeh.embed import components
from bokeh.models import ColumnDataSource, CustomJS, Div, Select
from bokeh.resources import Resources

from haste_compiler.report.charts.changes import bounds_chart, changes_chart
from haste_compiler.report.charts.figures import Chart, widget_style
from haste_compiler.report.charts.heat import heat_chart, input_chart
from haste_compiler.report.charts.kept import kept_chart, spread_chart
from haste_compiler.report.charts.merged import channels_chart, groups_chart
from haste_compiler.report.charts.network import network_chart
from haste_compiler.report.charts.pareto import pareto_chart
from haste_compiler.report.charts.times import times_chart
from haste_compiler.report.colours import of_methods
from haste_compiler.report.evidence import Evidence, LayerEvidence
from haste_compiler.report.headline import headline
from haste_compiler.report.pictures import shown_channels
from haste_compiler.report.search_found import SearchFound
from haste_compiler.validation.thresholds import Thresholds
from haste_compiler.version import __version__

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("haste_compiler.report"), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


def render(evidence: Evidence, search: SearchFound | None = None, limits: Thresholds | None = None) -> str:
    """A whole page of HTML.

    Args:
        evidence: what was found.
        search: a search's result, whose curve is drawn.
        limits: that the headline is held against.
    """
    layer = _layer_control(evidence)
    charts: dict[str, Any] = {"layer": layer, "details": _details(evidence, layer)}
    charts["colouring"], charts["network"] = network_chart(evidence, layer)
    heat = heat_chart(evidence, layer)
    if heat is not None and evidence.image is not None:
        charts["input"] = input_chart(evidence.image)
        charts["opacity"], charts["heat"] = heat
    explained: dict[str, Chart | None] = {
        "times": times_chart(evidence),
        "kept": kept_chart(evidence),
        "spread": spread_chart(evidence),
        "bounds": bounds_chart(evidence),
        "changes": changes_chart(evidence),
        "pareto": None if search is None else pareto_chart(search),
    }
    made = {"channels": channels_chart(evidence, layer), "groups": groups_chart(evidence, layer)}
    made |= {name: None if chart is None else chart.plot for name, chart in explained.items()}
    charts |= {name: plot for name, plot in made.items() if plot is not None}
    for name, chart in charts.items():
        if chart.name is None:
            chart.name = f"{name} plot"
    script, places = components(charts)
    resources = Resources(mode="inline", components=["bokeh", "bokeh-widgets"])
    return _TEMPLATES.get_template("page.html").render(
        evidence=evidence,
        report=evidence.report,
        numbers=headline(evidence, limits or Thresholds()),
        version=__version__,
        methods=of_methods(evidence),
        keys={name: chart.key for name, chart in explained.items() if chart is not None},
        library=markupsafe.Markup(resources.render_js()),
        script=markupsafe.Markup(script),
        charts={name: markupsafe.Markup(place) for name, place in places.items()},
    )


def _layer_control(evidence: Evidence) -> Select:
    """What is set to the layer that is looked at, at first the one whose map has most tiles."""
    first = max(evidence.layers, key=lambda layer: 0 if layer.work is None else layer.work.share.size, default=None)
    return Select(
        options=[layer.name for layer in evidence.layers], value="" if first is None else first.name, name="layer",
        title="layer", stylesheets=[widget_style()],
    )  # fmt: skip


def _details(evidence: Evidence, layer: Select) -> Div:
    """All that is known of the layer that is chosen, in words."""
    template = _TEMPLATES.get_template("layer.html")
    texts = {each.name: template.render(layer=each, groups=_groups(each)) for each in evidence.layers}
    store = ColumnDataSource({"name": list(texts), "text": list(texts.values())})
    shown = Div(text=texts.get(str(layer.value), ""), name="details", sizing_mode="stretch_width")
    code = "shown.text = store.data.text[Array.from(store.data.name).indexOf(cb_obj.value)]"
    layer.js_on_change("value", CustomJS(args={"store": store, "shown": shown}, code=code))
    return shown


def _groups(layer: LayerEvidence) -> list[str]:
    """The channels of each group that is shown."""
    if layer.merged is None:
        return []
    return [
        ", ".join(map(str, channels)) + (f" and {more} more" if more else "")
        for channels, more in shown_channels(layer.merged)
    ]
