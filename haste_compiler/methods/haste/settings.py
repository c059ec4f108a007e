"""The settings that can be steered between two calls, packed into the tensor that the operators read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from haste_compiler.methods.haste.config import HasteConfig

if TYPE_CHECKING:
    from torch import Tensor


class Settings(NamedTuple):
    """What a compiled network reads anew at every call.

    Attributes:
        num_hyperplanes: hyperplanes in use.
        tolerance: see ``HasteConfig``; inf where it is off.
        flat_tolerance: see ``HasteConfig``.
    """

    num_hyperplanes: int
    tolerance: float
    flat_tolerance: float

    @classmethod
    def of(cls, config: HasteConfig) -> Settings:
        """The settings of a configuration."""
        tolerance = math.inf if config.tolerance is None else config.tolerance
        return cls(config.num_hyperplanes, tolerance, config.flat_tolerance)

    @classmethod
    def read(cls, values: Sequence[float]) -> Settings:
        """Read the values of a record's parameters."""
        planes, tolerance, flat_tolerance = (float(value) for value in values)
        return cls(int(planes), tolerance, flat_tolerance)

    @classmethod
    def unpack(cls, packed: Tensor) -> Settings:
        """Read what ``pack`` wrote."""
        return cls.read(packed.tolist())

    def pack(self) -> Tensor:
        """Return float32 (3,): number of hyperplanes, tolerance, flat tolerance."""
        import torch

        return torch.tensor(self, dtype=torch.float32)


EXACT = Settings(1, 0.0, 0.0)
"""Settings under which a HASTE convolution changes nothing but the order of its sums."""

LADDER = (
    Settings(1, 0.0, 0.1),
    Settings(12, 0.2, 0.1),
    Settings(16, 0.3, 0.1),
    Settings(1, 0.0, 0.3),
    Settings(14, 0.4, 0.15),
    Settings(10, 0.4, 0.2),
    Settings(14, 0.5, 0.2),
    Settings(10, 0.5, 0.2),
    Settings(12, 0.7, 0.3),
    Settings(8, 0.7, 0.3),
    Settings(8, 1.0, 0.4),
    Settings(6, 1.0, 0.5),
    Settings(5, math.inf, 0.5),
)
"""Settings that a search measures, roughly by rising damage."""

OFFERED: Mapping[str, tuple[Any, ...]] = {
    "num_hyperplanes": (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 30),
    "tolerance": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, None),
    "flat_tolerance": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
}
"""Values of each that a person who turns it is offered, ascending."""
