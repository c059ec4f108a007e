"""What ``flat`` says to the command line."""

from __future__ import annotations

from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.methods.flat.config import FlatConfig
from haste_compiler.methods.option import Option, Preset

SUMMARY = "Computes tiles that read alike windows once, as in even areas."

OPTIONS = (
    Option(
        "tile-tolerance",
        "tile_tolerance",
        float,
        "By which part of its norm a tile may differ from those it takes over.",
    ),
    Option("winograd", "winograd", WINOGRAD_SIZES, "Largest tiles of Winograd's algorithm; 0: not used."),
    Option("cost-model", "cost_model", bool, "Only layers where finding copies is cheap, or all that can be."),
)

PRESETS = (
    Preset("flat", "even areas are computed once", FlatConfig),
    Preset("flat-exact", "the same, with outputs that are the same to the bit", lambda: FlatConfig(tile_tolerance=0.0)),
)
