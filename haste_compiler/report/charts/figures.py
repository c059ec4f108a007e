"""What all figures of a report have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bokeh.models import InlineStyleSheet
from bokeh.plotting import figure

_STYLE = """
:host { font: inherit; color: var(--ink); max-width: 100%; }
.bk-input { background-color: var(--card); color: var(--ink); border-color: var(--line); min-height: 2.2em; }
.bk-input option { background: var(--card); color: var(--ink); }
.bk-btn { background: var(--card); color: var(--ink); border-color: var(--line); }
.bk-btn.bk-active { background: var(--ink); color: var(--paper); }
.bk-slider-title, label { color: var(--ink); }
"""

_INK = "#1b1f24"
"""The page's on light paper; on dark paper the page gives another."""

_ROW, _AROUND = 20, 70
"""Pixels of a bar, and of axes and legend."""


@dataclass(frozen=True)
class Chart:
    """A figure, and what its colours mean: the page says it, where words find room on a telephone too.

    Attributes:
        plot: the figure.
        key: colours by what they stand for.
    """

    plot: figure
    key: Mapping[str, str] = field(default_factory=dict)


def rows_figure(names: Sequence[str], axis: str, **options: Any) -> figure:
    """A figure with a row for each layer, the first on top."""
    plot = plain_figure(
        y_range=list(reversed(names)), height=_AROUND + _ROW * max(len(names), 2), x_axis_label=axis, **options
    )
    plot.ygrid.visible = False
    return plot


def plain_figure(**options: Any) -> figure:
    """A figure as wide as the page, whose paper is the page's."""
    plot = figure(sizing_mode="stretch_width", toolbar_location=None, output_backend="canvas", **options)
    plot.background_fill_color = plot.border_fill_color = None
    plot.outline_line_color = None
    plot.xgrid.grid_line_alpha = plot.ygrid.grid_line_alpha = 0.3
    plot.axis.axis_line_alpha = 0.5
    plot.axis.axis_label_text_color = plot.axis.major_label_text_color = plot.title.text_color = _INK
    plot.min_border_right = 20
    return plot


def widget_style() -> InlineStyleSheet:
    """Widgets in the colours of the page."""
    return InlineStyleSheet(css=_STYLE)
