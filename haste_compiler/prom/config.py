"""``PromConfig``: which layers become ternary, which get 8 bits, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from haste_compiler.errors import ConfigError
from haste_compiler.prom.ternary import QUANTIZERS

TERNARY, INT8, FLOAT = "ternary", "int8", "float"
"""What the weights of a layer are."""


@dataclass(frozen=True)
class PromConfig:
    """How a network is prepared.

    Attributes:
        quantizer: of ternary weights: "twn", "mean" or "learned" (``ternary.QUANTIZERS``).
        linear: linear layers are ternary too; else they have 8 bits.
        input_bits: that layers' inputs are rounded to, 8 or 7, as method ``quantized`` rounds them; None: they aren't
            rounded.
        layers: other weights for some layers, from a qualified name or an ``fnmatch`` pattern of it to "ternary",
            "int8" or "float", e.g. ``{"classifier.*": "float"}``. Later entries win.

    Raises:
        ConfigError: a value isn't allowed.
    """

    quantizer: str = "twn"
    linear: bool = False
    input_bits: int | None = 8
    layers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field."""
        if self.quantizer not in QUANTIZERS:
            raise ConfigError(f"quantizer must be one of {', '.join(QUANTIZERS)}, not {self.quantizer!r}")
        if self.input_bits not in (None, 7, 8):
            raise ConfigError(f"input_bits must be 8, 7 or None, not {self.input_bits!r}")
        for pattern, kind in self.layers.items():
            if kind not in (TERNARY, INT8, FLOAT):
                raise ConfigError(f"layers: {pattern!r} must be {TERNARY}, {INT8} or {FLOAT}, not {kind!r}")

    def kind(self, name: str, usual: str) -> str:
        """What a layer's weights are, ``usual`` where no override says otherwise."""
        return [usual, *(kind for pattern, kind in self.layers.items() if fnmatchcase(name, pattern))][-1]

    def check_layers(self, names: list[str]) -> None:
        """Check that every override matches a layer.

        Raises:
            ConfigError: one doesn't.
        """
        for pattern in self.layers:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"layers: {pattern!r} matches none of {', '.join(names) or 'no layers'}")
