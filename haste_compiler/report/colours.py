"""Colours that people who tell few of them apart can tell apart, on light and dark paper."""

from __future__ import annotations

from bokeh.palettes import Cividis256

from haste_compiler.report.evidence import Evidence

# Okabe and Ito, Color Universal Design, 2008.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
GREY = "#8A8A8A"

SCALE = Cividis256
"""From little to much: Nuñez et al., PLOS ONE 13(7), 2018."""

_METHODS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)


def of_methods(evidence: Evidence) -> dict[str, str]:
    """A colour for each title, what no method took among them."""
    titles = dict.fromkeys(evidence.titles.values())
    return {"dense": GREY, **{title: _METHODS[place % len(_METHODS)] for place, title in enumerate(titles)}}


def on_scale(value: float, most: float) -> str:
    """The colour of a value, 0 to ``most``."""
    place = 0.0 if most <= 0 else min(max(value / most, 0.0), 1.0)
    return str(SCALE[round(place * (len(SCALE) - 1))])


def ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    # Relative luminance of WCAG 2, its gamma taken as 2.2.
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return "#000000" if luminance > 0.18 else "#FFFFFF"
