"""How a layer of integers is computed."""

from __future__ import annotations

from typing import NamedTuple

from haste_compiler.methods.quantized.bits import BITS, NARROW_BITS

_BIT, _TERNARY = 16, 32
"""What a bit less adds to a setting, and filters of -1, 0 and 1."""


class Algorithm(NamedTuple):
    """An algorithm of a convolution, and the bits that its input is rounded to.

    Attributes:
        size: of the tiles of outputs, m × m, of Winograd's F(m × m, 3 × 3); 0: as it is written.
        bits: 8, or 7 where the machine multiplies these faster.
        ternary: filters are -1, 0 and 1, see ``ternary``.
    """

    size: int
    bits: int = BITS
    ternary: bool = False

    @classmethod
    def of(cls, setting: int) -> Algorithm:
        """The algorithm of a ``setting``."""
        ternary, rest = divmod(setting, _TERNARY)
        fewer, size = divmod(rest, _BIT)
        return cls(size, BITS - fewer, bool(ternary))

    @property
    def setting(self) -> int:
        """It as one number, as it is kept of a layer: of 8 bits ``size``."""
        return self.size + _BIT * (BITS - self.bits) + _TERNARY * self.ternary

    @property
    def is_narrow(self) -> bool:
        """Whether the input is rounded to fewer bits than filters are."""
        return self.bits == NARROW_BITS

    def described(self) -> str:
        """In words that follow on a time; empty for the plainest."""
        by = f" by F({self.size}×{self.size})" if self.size else " by ternary weights" if self.ternary else ""
        return f"{by} from {self.bits} bits" if self.is_narrow else by
