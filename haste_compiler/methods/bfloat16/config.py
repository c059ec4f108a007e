"""``BFloat16Config``: which layers multiply in bfloat16, and how carefully."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haste_compiler.methods.config import MethodConfig, non_negative, winograd_size

NAME = "bfloat16"
"""The method's name."""


@dataclass(frozen=True, eq=False)
class BFloat16Config(MethodConfig):
    """How the convolutions and linear layers of a network multiply in bfloat16. Immutable, JSON-able.

    Attributes:
        enabled: False leaves every layer in float32.
        max_error: what rounding may change a layer's output by, relative to it (2-norms), on made-up images like
            photographs (finite, at least 0); of the algorithms that keep within it the one that is predicted to be
            fastest is taken, and a layer that has none stays in float32. None: it isn't looked at.
        winograd: largest side of the tiles of outputs for which Winograd's algorithm may compute a 3×3 convolution: 4,
            2 or 0 (never). It is for layers that stay in float32 too.
        cost_model: True: a layer is taken only where it is predicted to be faster. False: wherever ``max_error`` lets
            it.
        layers: overrides, from a layer's qualified name or an ``fnmatch`` pattern of it to the fields that differ
            there, e.g. ``{"conv1": {"enabled": False}}``. Later entries win.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    METHOD = NAME

    enabled: bool = True
    max_error: float | None = 0.005
    winograd: int = 4
    cost_model: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """See ``MethodConfig``."""
        if self.max_error is not None:
            self.set("max_error", non_negative("max_error", self.max_error, " (None turns it off)"))
        self.set("winograd", winograd_size("winograd", self.winograd))


CONFIG = BFloat16Config
"""What the method is configured with."""
