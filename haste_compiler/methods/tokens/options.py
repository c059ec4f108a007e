"""What ``tokens`` says to the command line."""

from __future__ import annotations

from haste_compiler.methods.option import Option, Preset
from haste_compiler.methods.tokens.config import MODES, SCHEDULES, TokenConfig

SUMMARY = "Merges tokens of attention that say the same."

OPTIONS = (
    Option("keep", "keep", float, "Share of the tokens that is left.", none=True, unset="0.5"),
    Option("r", "r", int, "How many tokens merge in each attention, in the place of a share.", none=True),
    Option("mode", "mode", MODES, "Tokens stay merged, or within one attention only."),
    Option("schedule", "schedule", SCHEDULES, "As many in every layer, or fewer from layer to layer."),
    Option("start", "start", int, "How many of the first attentions merge nothing."),
    Option("protected", "protected", int, "How many of the first tokens never merge.", none=True, unset="as found"),
    Option("cost-model", "cost_model", bool, "Only where it saves more than it takes, or wherever it can be."),
)

PRESETS = (
    Preset("tome", "ToMe as published for ViT-B and DeiT-S: 13 tokens a layer", lambda: TokenConfig(r=13)),
    Preset("tome-local", "half of the tokens in each attention, copied back", lambda: TokenConfig(mode="local")),
)
