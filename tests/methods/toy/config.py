"""``ToyConfig``: how much is rounded, and in which layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haste_compiler.methods.config import MethodConfig, non_negative


@dataclass(frozen=True, eq=False)
class ToyConfig(MethodConfig):
    """How the inputs of a network's convolutions are rounded.

    Attributes:
        enabled: see ``MethodConfig``.
        step: what a rounded value is a multiple of (finite, at least 0); 0: nothing is rounded.
        cost_model: see ``MethodConfig``; nothing is predicted, so that it changes nothing.
        layers: see ``MethodConfig``.
    """

    METHOD = "toy"

    enabled: bool = True
    step: float = 0.25
    cost_model: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """See ``MethodConfig``."""
        self.set("step", non_negative("step", self.step))


CONFIG = ToyConfig
