"""What ``quantized`` says to the command line."""

from __future__ import annotations

from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.methods.option import Option, Preset
from haste_compiler.methods.quantized.config import QuantizedConfig

SUMMARY = "Computes in 8-bit integers, by scales found while it runs."

PRECISION = "int8"
"""The precision of products that the method stands for."""

OPTIONS = (
    Option("max-error", "max_error", float, "What rounding may change a layer's output by; none: any.", none=True),
    Option(
        "max-output-error",
        "max_output_error",
        float,
        "What rounding of all layers may change the network's outputs by; none: it isn't looked at.",
        none=True,
    ),
    Option("winograd", "winograd", WINOGRAD_SIZES, "Largest tiles of Winograd's algorithm; 0: not used."),
    Option("bits", "bits", int, "Of inputs, 7 or 8; none: 7 where these are multiplied faster.", none=True),
    Option("cost-model", "cost_model", bool, "Only layers that are predicted to be faster, or all that can be."),
)

PRESETS = (Preset("int8", "integers of 8 bits, without calibration", QuantizedConfig),)
