"""Tables as text, as wide as the terminal that they are printed on."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

_ENDLESS = 1000
"""Columns where text goes into a file or a pipe: no line is folded."""


def width() -> int:
    """Columns of the terminal that standard output is, or that COLUMNS says; elsewhere as many as are wanted."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return _ENDLESS
    return shutil.get_terminal_size((_ENDLESS, 24)).columns


def as_text(*parts: RenderableType) -> str:
    """Plain text without colours, no wider than ``width``."""
    console = _console(width())
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def fitting(make: Callable[[Sequence[str]], Table], headings: Sequence[str], dispensable: Sequence[str]) -> Table:
    """A table with as many of its columns as fit.

    Args:
        make: makes the table of some columns, by their headings.
        headings: of all columns, in order.
        dispensable: those that are left out where there is no room, the first one first.
    """
    wide = _console(_ENDLESS)
    left_out: list[str] = []
    table = make(headings)
    for heading in dispensable:
        if Measurement.get(wide, wide.options, table).maximum <= width():
            break
        left_out.append(heading)
        table = make([each for each in headings if each not in left_out])
    if left_out:
        table.caption = f"no room for {', '.join(left_out)}\n"
        table.caption_justify = "left"
        table.caption_style = ""
    return table


def numbers(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: int, dispensable: Sequence[str]
) -> Table:
    """A table of names and numbers.

    Args:
        title: of the table.
        headings: of the columns.
        rows: a text for each column.
        left: how many columns hold names; they may be folded.
        dispensable: see ``fitting``.
    """

    def make(shown: Sequence[str]) -> Table:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="", header_style="")
        places = [place for place, heading in enumerate(headings) if place < left or heading in shown]
        for place in places:
            names = place < left
            table.add_column(headings[place], justify="left" if names else "right", no_wrap=not names, overflow="fold")
        for row in rows:
            table.add_row(*(row[place] for place in places))
        return table

    return fitting(make, headings, dispensable)


def _console(columns: int) -> Console:
    # In a notebook it would show the text beside the cell, as HTML, and leave none in the file.
    return Console(
        file=io.StringIO(),
        width=columns,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        legacy_windows=False,
    )
