"""A batch whose size is known only when a network is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haste_compiler.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class BatchRange:
    """The batches that one compiled network takes.

    Attributes:
        name: of the batch, for error messages.
        least, most: fewest and most images; None: as many as fit.
        inputs: positions, among the network's flat inputs, of the tensors whose first dimension it is.
    """

    name: str
    least: int
    most: int | None
    inputs: tuple[int, ...]

    def fits(self, shapes: Sequence[Shape], others: Sequence[Shape]) -> bool:
        """Whether two calls' shapes differ in the batch only."""
        pairs = enumerate(zip(shapes, others, strict=True))
        return all(a[1:] == b[1:] and len(a) == len(b) if i in self.inputs else a == b for i, (a, b) in pairs)

    def check(self, shapes: Sequence[Shape]) -> None:
        """Check the batch of a call.

        Raises:
            InputError: it is out of range, or not the same for all inputs.
        """
        first, *rest = self.inputs
        images = shapes[first][0]
        for index in rest:
            if shapes[index][0] != images:
                raise InputError(
                    f"input {index} has {shapes[index][0]} images, input {first} has {images}: "
                    f"the network takes one {self.name!r} for both"
                )
        if images < self.least or (self.most is not None and images > self.most):
            raise InputError(f"input {first} has {images} images: {self.name!r} may be {self}")

    def __str__(self) -> str:
        return f"{self.least} to {self.most}" if self.most is not None else f"{self.least} or more"
