"""``FlatConfig``: which layers compute tiles with alike windows once, and what counts as alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haste_compiler.methods.config import MethodConfig, non_negative, winograd_size

NAME = "flat"
"""The method's name."""


@dataclass(frozen=True, eq=False)
class FlatConfig(MethodConfig):
    """How tiles of a network's convolutions that read alike windows are computed once. Immutable, JSON-able.

    Attributes:
        enabled: False computes every tile.
        tile_tolerance: by which part of its norm a tile of outputs may differ from the most frequent ones to take
            their values (finite, at least 0). 0: only tiles whose windows are the same to the bit are copies; the
            outputs are then those without the method, to the bit.
        winograd: largest side of the tiles of outputs for which Winograd's algorithm may compute a 3×3 convolution: 4,
            2 or 0 (never).
        cost_model: True: a layer is taken only where finding its copies is cheap beside computing it. False: every
            layer that can be.
        layers: overrides, from a layer's qualified name or an ``fnmatch`` pattern of it to the fields that differ
            there, e.g. ``{"conv1": {"enabled": False}}``. Later entries win.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    METHOD = NAME

    enabled: bool = True
    tile_tolerance: float = 1e-3
    winograd: int = 4
    cost_model: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """See ``MethodConfig``."""
        self.set("tile_tolerance", non_negative("tile_tolerance", self.tile_tolerance))
        self.set("winograd", winograd_size("winograd", self.winograd))


CONFIG = FlatConfig
"""What the method is configured with."""
