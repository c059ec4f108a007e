"""The settings that can be steered between two calls, packed into the tensor that the operators read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

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
    def unpack(cls, packed: Tensor) -> Settings:
        """Read what ``pack`` wrote."""
        planes, tolerance, flat_tolerance = packed.tolist()
        return cls(int(planes), tolerance, flat_tolerance)

    def pack(self) -> Tensor:
        """Return float32 (3,): number of hyperplanes, tolerance, flat tolerance."""
        import torch

        return torch.tensor(self, dtype=torch.float32)
