"""What a search found: how near the outputs stay, over what is saved."""

from __future__ import annotations

from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter

from haste_compiler.report import colours
from haste_compiler.report.charts.figures import Chart, plain_figure
from haste_compiler.report.search_found import SearchFound

_HEIGHT = 340


def pareto_chart(found: SearchFound) -> Chart:
    """The points that none beats, and the one that was chosen."""
    scored = found.chosen.agreement is not None
    heights = [point.agreement if scored else point.output_error for point in found.pareto]
    data = {
        "saved": [point.mac_reduction for point in found.pareto],
        "height": heights,
        "milliseconds": ["" if point.latency is None else f"{point.latency:.3g} ms" for point in found.pareto],
    }
    plot = plain_figure(
        height=_HEIGHT,
        x_axis_label="net reduction of multiply-adds",
        y_axis_label="agreement with the original" if scored else "relative output error",
    )
    source = ColumnDataSource(data)
    plot.line("saved", "height", source=source, color=colours.BLUE, line_width=2)
    drawn = plot.scatter("saved", "height", source=source, color=colours.BLUE, size=9)
    place = found.pareto.index(found.chosen)
    plot.scatter([found.chosen.mac_reduction], [heights[place]], marker="square", size=14, color=colours.VERMILION)
    tips = [("saved", "@saved{0.0%}"), ("height", "@height{0.00%}"), ("an image", "@milliseconds")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips))
    plot.xaxis.formatter = plot.yaxis.formatter = NumeralTickFormatter(format="0.[0]%")
    return Chart(plot, {"measured": colours.BLUE, "chosen": colours.VERMILION})
