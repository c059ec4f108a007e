"""What ``bfloat16`` says to the command line."""

from __future__ import annotations

from haste_compiler.methods.bfloat16.config import BFloat16Config
from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.methods.option import Option, Preset

SUMMARY = "Multiplies in bfloat16 on CPUs that can, and sums in float32."

PRECISION = "bf16"
"""The precision of products that the method stands for."""

OPTIONS = (
    Option("max-error", "max_error", float, "What rounding may change a layer's output by; none: any.", none=True),
    Option("winograd", "winograd", WINOGRAD_SIZES, "Largest tiles of Winograd's algorithm; 0: not used."),
    Option("cost-model", "cost_model", bool, "Only layers that are predicted to be faster, or all that can be."),
)

PRESETS = (Preset("bf16", "factors in bfloat16, sums in float32", BFloat16Config),)
