"""Where tokens, or images, are in a tensor: a factor of the size of one of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Place:
    """A factor of an axis of ``before * count * after`` elements, for a count that is known elsewhere.

    Attributes:
        axis: of the tensor.
        before: the axis's factor that varies more slowly.
        after: the axis's factor that varies faster.
    """

    axis: int
    before: int = 1
    after: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether the axis has nothing else."""
        return self.before == self.after == 1

    def moved(self, by: int) -> Place:
        """The same with so many more axes before it."""
        return replace(self, axis=self.axis + by)

    def permuted(self, dims: Sequence[int]) -> Place:
        """The place after axes were permuted."""
        return replace(self, axis=[dim % len(dims) for dim in dims].index(self.axis))

    def reshaped(self, count: int, before: Sequence[int], after: Sequence[int]) -> Place | None:
        """The place after a tensor got another shape; None where it is torn apart.

        Args:
            count: how many there are.
            before: the shape that this is the place in.
            after: the new shape, of as many elements.
        """
        start, first = math.prod(before[: self.axis]) * self.before, 1
        for axis, length in enumerate(after):
            slower = start // first if first and start % first == 0 else 0
            if slower and slower * count <= length and length % (slower * count) == 0:
                return Place(axis, slower, length // (slower * count))
            first *= length
        return None
