"""What Toy says to the command line."""

from __future__ import annotations

from haste_compiler.methods.option import Option, Preset
from tests.methods.toy.config import ToyConfig

SUMMARY = "Rounds what convolutions read."

OPTIONS = (
    Option("step", "step", float, "What a rounded value is a multiple of; 0: nothing is rounded."),
    Option("cost-model", "cost_model", bool, "Not shown: HASTE's text is."),
)

PRESETS = (Preset("coarse", "round to whole numbers", lambda: ToyConfig(step=1.0)),)
