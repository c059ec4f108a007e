"""How a layer of integers is computed."""

from __future__ import annotations

from typing import NamedTuple

from haste_compiler.methods.quantized.bits import BITS, NARROW_BITS

_BIT = 16
"""What a bit less adds to a setting."""


class Algorithm(NamedTuple):
    """An algorithm of a convolution, and the bits that its input is rounded to.

    Attributes:
        size: of the tiles of outputs, m × m, of Winograd's F(m × m, 3 × 3); 0: as it is written.
        bits: 8, or 7 where the machine multiplies these faster.
    """

    size: int
    bits: int = BITS

    @classmethod
    def of(cls, setting: int) -> Algorithm:
        """The algorithm of a ``setting``."""
        fewer, size = divmod(setting, _BIT)
        return cls(size, BITS - fewer)

    @property
    def setting(self) -> int:
        """It as one number, as it is kept of a layer: of 8 bits ``size``."""
        return self.size + _BIT * (BITS - self.bits)

    @property
    def is_narrow(self) -> bool:
        """Whether the input is rounded to fewer bits than filters are."""
        return self.bits == NARROW_BITS

    def described(self) -> str:
        """In words that follow on a time; empty for the plainest."""
        by = f" by F({self.size}×{self.size})" if self.size else ""
        return f"{by} from {self.bits} bits" if self.is_narrow else by
