"""``QuantizedConfig``: which layers are computed in integers of 8 bits, and how carefully."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haste_compiler.errors import ConfigError
from haste_compiler.methods.config import MethodConfig, integer, non_negative, winograd_size
from haste_compiler.methods.quantized.bits import BITS, NARROW_BITS

NAME = "quantized"
"""The method's name."""


@dataclass(frozen=True, eq=False)
class QuantizedConfig(MethodConfig):
    """How the convolutions and linear layers of a network are computed in integers of 8 bits. Immutable, JSON-able.

    Attributes:
        enabled: False leaves every layer in float32.
        max_error: what rounding may change a layer's output by, relative to it (2-norms), on made-up images like
            photographs (finite, at least 0); of the algorithms that keep within it the one that is predicted to be
            fastest is taken, and a layer that has none stays in float32. None: it isn't looked at.
        max_output_error: what rounding of all layers together may change each of the network's outputs by, relative to
            it (2-norms), on such an image (finite, at least 0): layers and algorithms are chosen so that most time is
            saved within it. None: it isn't looked at. It is no layer's own, and needs ``cost_model``.
        winograd: largest side of the tiles of outputs for which Winograd's algorithm may compute a 3×3 convolution: 4,
            2 or 0 (never). It is for layers that stay in float32 too.
        bits: that inputs are rounded to, 8 or 7; filters have 8. None: 7 where the machine multiplies these faster
            (x86 without a dot product of bytes, VNNI) and ``max_error`` lets it, else 8.
        cost_model: True: a layer is taken only where it is predicted to be faster. False: wherever it can be, by the
            largest tiles of Winograd's algorithm; no error is looked at.
        layers: overrides, from a layer's qualified name or an ``fnmatch`` pattern of it to the fields that differ
            there, e.g. ``{"conv1": {"enabled": False}}``. Later entries win.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    METHOD = NAME

    enabled: bool = True
    max_error: float | None = 0.02
    max_output_error: float | None = None
    winograd: int = 4
    bits: int | None = None
    cost_model: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """See ``MethodConfig``."""
        if self.max_error is not None:
            self.set("max_error", non_negative("max_error", self.max_error, " (None turns it off)"))
        if self.max_output_error is not None:
            hint = " (None turns it off)"
            self.set("max_output_error", non_negative("max_output_error", self.max_output_error, hint))
            if not self.cost_model or any(not each.get("cost_model", True) for each in self._overrides()):
                raise ConfigError(
                    "max_output_error limits which layers are taken, and cost_model=False takes all that can be: "
                    "allowed is one of the two"
                )
        if any("max_output_error" in each for each in self._overrides()):
            raise ConfigError("layers: max_output_error is the whole network's, and no layer has its own")
        self.set("winograd", winograd_size("winograd", self.winograd))
        if self.bits is not None:
            self.set("bits", integer("bits", self.bits, NARROW_BITS, BITS))

    def _overrides(self) -> list[Mapping[str, Any]]:
        """The overrides, as far as they are some: they are checked later."""
        values = self.layers.values() if isinstance(self.layers, Mapping) else ()
        return [each for each in values if isinstance(each, Mapping)]


CONFIG = QuantizedConfig
"""What the method is configured with."""
