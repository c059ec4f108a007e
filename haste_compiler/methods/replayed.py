"""What a method's layer computes, in eager PyTorch: what machine code is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class OwnedLayer(Protocol):
    """One layer of a method, with the values that it computes from."""

    @property
    def x(self) -> Tensor:
        """What the layer reads."""

    @property
    def patch(self) -> tuple[int, int] | None:
        """Height and width in output pixels of what is decided together, so that rounding may change it together.

        None: the whole output.
        """

    def compute(self, x: Tensor | None = None) -> Tensor:
        """What the layer should return; for ``x``, if it is given, in the place of what it reads."""

    def plain(self) -> Tensor:
        """What the layer would return if the method did nothing."""
