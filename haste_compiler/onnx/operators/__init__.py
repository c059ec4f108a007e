"""ONNX's operators, a file a theme: tables ``OPERATORS`` from names to functions that write PyTorch's calls."""

from __future__ import annotations

import importlib

from haste_compiler.onnx.site import Operator

_ROOMS = (
    "activation",
    "convolution",
    "elementwise",
    "indexing",
    "layout",
    "matrix",
    "normalization",
    "padding",
    "pooling",
    "quantization",
    "reduction",
    "resize",
)

OPERATORS: dict[str, Operator] = {
    name: operator
    for room in _ROOMS
    for name, operator in importlib.import_module(f"{__name__}.{room}").OPERATORS.items()
}

REFUSED = {
    **dict.fromkeys(("NonZero", "Compress", "Unique", "NonMaxSuppression"), "its result's size depends on values"),
    **dict.fromkeys(("Loop", "Scan"), "loops aren't known"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent layers aren't known"),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
        "random numbers aren't known",
    ),
}
"""Why an operator has no place in the tables, where there is a reason."""
