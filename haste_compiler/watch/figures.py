"""The pictures of the page: what the network was shown, what it made of it, and where it worked."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper, Range1d
from bokeh.palettes import Cividis256
from bokeh.plotting import figure
from numpy.typing import NDArray

from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report.pictures import packed

_TEXT = "#808080"
"""Readable on white and on black."""


class Picture:
    """A figure of one image, without axes.

    Args:
        name: of the figure in the page.
        size: height and width of the image; its shape on the page.
    """

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        self.source = ColumnDataSource({"image": []})
        self.figure = _canvas(name, size)
        self.figure.image_rgba("image", 0, 0, 1, 1, source=self.source)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show an image, uint8 (H, W, 3)."""
        self.source.data = {"image": [packed(picture)]}


class Heat:
    """A figure of the share of work over a grey image; the mouse reads the shares.

    Args:
        name: of the figure in the page.
        size: height and width of the image.
    """

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        self._size = size
        self._below = ColumnDataSource({"image": []})
        self.source = ColumnDataSource({"image": []})
        self.figure = _canvas(name, size)
        self.figure.image_rgba("image", 0, 0, 1, 1, source=self._below)
        colours = LinearColorMapper(palette=Cividis256, low=0, high=1)
        shares = self.figure.image("image", 0, 0, 1, 1, source=self.source, color_mapper=colours, global_alpha=0.75)
        self.figure.add_tools(HoverTool(renderers=[shares], tooltips=[("work", "@image{0.0%}")]))

    def show(self, picture: NDArray[np.uint8], work: WorkMap | None) -> None:
        """Show a map over an image, uint8 (H, W, 3); None: the image alone."""
        grey = picture.mean(axis=2, keepdims=True).astype(np.uint8)
        self._below.data = {"image": [packed(np.repeat(grey, 3, axis=2))]}
        self.source.data = {"image": [] if work is None else [np.flipud(work.over(self._size))]}


class Course:
    """A figure of the share of work by frame of a video."""

    def __init__(self, name: str) -> None:
        self.source = ColumnDataSource({"frame": [], "work": []})
        self.figure = figure(
            name=name,
            height=140,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1.05),
            x_axis_label="frame",
            y_axis_label="work",
            background_fill_alpha=0,
            border_fill_alpha=0,
            outline_line_color=None,
        )
        self.figure.line("frame", "work", source=self.source, line_width=2, color="#0072b2")
        self.figure.scatter("frame", "work", source=self.source, size=5, color="#0072b2")
        for axis in self.figure.axis:
            axis.update(axis_label_text_color=_TEXT, major_label_text_color=_TEXT, axis_line_color=_TEXT)
            axis.update(major_tick_line_color=_TEXT, minor_tick_line_color=None)
        self.figure.grid.grid_line_alpha = 0.25

    def clear(self, frames: int) -> None:
        """Begin anew, with a video of so many frames."""
        self.figure.x_range.update(end=max(1, frames - 1))
        self.source.data = {"frame": [], "work": []}

    def add(self, frame: int, work: float) -> None:
        """One more frame."""
        self.source.stream({"frame": [frame], "work": [work]})


def _canvas(name: str, size: tuple[int, int]) -> Any:
    made = figure(
        name=name,
        aspect_ratio=size[1] / size[0],
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_range=Range1d(0, 1),
        y_range=Range1d(0, 1),
        min_border=0,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
    )
    made.axis.visible = False
    made.grid.visible = False
    return made
