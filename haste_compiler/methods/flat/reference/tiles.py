"""Which tiles of a convolution's outputs are computed, and which are copies: the definition in plain PyTorch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.flat.labels import HEADS, MOST_COMPUTED, PADDING, SIDE, UNKNOWN


@dataclass(frozen=True)
class Tiling:
    """An output plane cut into tiles; those at the right and lower end are moved back to fit.

    A pixel that two tiles cover is the later one's.

    Attributes:
        geometry: the convolution.
        side: of a tile, in output pixels; as much of it as the plane has.
    """

    geometry: ConvGeometry
    side: int = SIDE

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        height, width = self.geometry.output_size
        return min(self.side, height), min(self.side, width)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """The first row and column of every tile."""
        (height, width), (rows, columns) = self.geometry.output_size, self.size
        return [
            (min(row, height - rows), min(column, width - columns))
            for row in range(0, height, rows)
            for column in range(0, width, columns)
        ]

    @property
    def owners(self) -> Tensor:
        """(OH, OW): the number of the tile that each pixel is of."""
        owners = torch.empty(self.geometry.output_size, dtype=torch.int64)
        for number, (row, column) in enumerate(self.corners):
            owners[row : row + self.size[0], column : column + self.size[1]] = number
        return owners

    @property
    def places(self) -> Tensor:
        """(OH, OW): the number of each pixel in its tile."""
        places = torch.empty(self.geometry.output_size, dtype=torch.int64)
        numbers = torch.arange(math.prod(self.size)).view(self.size)
        for row, column in self.corners:
            places[row : row + self.size[0], column : column + self.size[1]] = numbers
        return places

    @property
    def whole(self) -> list[bool]:
        """For every tile whether it shares no pixel with a later one."""
        owned = torch.bincount(self.owners.flatten(), minlength=len(self.corners)).tolist()
        return [count == math.prod(self.size) for count in owned]

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across."""
        (height, width), (rows, columns) = self.geometry.output_size, self.size
        return -(-height // rows), -(-width // columns)

    def windows(self, labels: Tensor) -> list[tuple[int, ...]]:
        """For every tile the labels (H, W) that it reads, ``PADDING`` outside the image."""
        geometry = self.geometry
        top, bottom, left, right = geometry.padding
        rows, columns = (
            (pixels - 1) * stride + (kernel - 1) * dilation + 1
            for pixels, stride, kernel, dilation in zip(
                self.size, geometry.stride, geometry.kernel, geometry.dilation, strict=True
            )
        )
        padded = F.pad(labels, (left, right + columns, top, bottom + rows), value=PADDING)
        starts = [(row * geometry.stride[0], column * geometry.stride[1]) for row, column in self.corners]
        return [tuple(padded[i : i + rows, j : j + columns].flatten().tolist()) for i, j in starts]

    def of(self, labels: Tensor) -> list[tuple[int, ...]]:
        """For every tile the labels (OH, OW) of its own pixels."""
        rows, columns = self.size
        return [tuple(labels[i : i + rows, j : j + columns].flatten().tolist()) for i, j in self.corners]


@dataclass(frozen=True)
class Result:
    """What became of one image.

    Attributes:
        y: outputs (K, OH, OW).
        labels: (OH, OW) int32.
        computed: tiles that were computed.
        moved: tiles of them that took another's values.
        step: the 2-norm of what those differed by.
    """

    y: Tensor
    labels: Tensor
    computed: int
    moved: int = 0
    step: float = 0.0


def copy_tiles(
    y: Tensor,
    labels: Tensor,
    residual_labels: Tensor | None,
    geometry: ConvGeometry,
    tolerance: float,
    side: int = SIDE,
) -> Result:
    """Let tiles take others' values.

    A tile is a copy of the first one that reads the same labels. The ``HEADS`` tiles with the most copies, the first of
    equals, are compared with every other that is computed, and with each other: it takes the values of the first of
    them that it differs from by no more than the tolerance times that one's norm, over the whole tile. Nothing is near
    one that is not finite. Tiles that share pixels with a later one are copies, but nobody copies them, and they are
    not compared.

    Args:
        y: outputs (K, OH, OW) of the plain layer, with everything that follows it in the kernel.
        labels: of what it reads, (H, W).
        residual_labels: of what is added, (OH, OW); None: nothing is.
        geometry: the convolution.
        tolerance: see above.
        side: of tiles.
    """
    tiling = Tiling(geometry, side)
    holders = tile_holders(tiling, labels, residual_labels)
    if holders is None:
        return Result(y, torch.full(geometry.output_size, UNKNOWN, dtype=torch.int32), len(tiling.corners))
    whole = tiling.whole
    computed = [number for number, holder in enumerate(holders) if number == holder]
    values = [y[:, i : i + tiling.size[0], j : j + tiling.size[1]] for i, j in tiling.corners]
    final, step = _compared(values, holders, computed, whole, tolerance)
    source = torch.tensor([final[holder] for holder in holders])[tiling.owners]
    stacked = torch.stack(values).flatten(2)
    copied = stacked[source, :, tiling.places].permute(2, 0, 1)
    made = (source * math.prod(tiling.size) + tiling.places).int()
    moved = sum(final[number] != number for number in computed)
    return Result(copied.contiguous(), made, len(computed), moved, step)


def tile_holders(tiling: Tiling, labels: Tensor, residual_labels: Tensor | None) -> list[int] | None:
    """For every tile the one that is computed for it, itself where it is; None: too few are alike, and all are.

    Args:
        tiling: of the outputs.
        labels, residual_labels: as of ``copy_tiles``.
    """
    if labels[0, 0] == UNKNOWN or (residual_labels is not None and residual_labels[0, 0] == UNKNOWN):
        return None
    keys = tiling.windows(labels)
    if residual_labels is not None:
        keys = [key + added for key, added in zip(keys, tiling.of(residual_labels), strict=True)]
    holders = holders_of(keys, tiling.whole)
    computed = sum(number == holder for number, holder in enumerate(holders))
    most, of = MOST_COMPUTED
    return None if computed * of > len(keys) * most else holders


def holders_of(keys: Sequence[tuple[int, ...]], whole: Sequence[bool]) -> list[int]:
    """For every tile the first whole one with the same key; itself where there is none before."""
    first: dict[tuple[int, ...], int] = {}
    holders = []
    for number, key in enumerate(keys):
        if key not in first and whole[number]:
            first[key] = number
        holders.append(first.get(key, number))
    return holders


def _compared(
    values: list[Tensor], holders: list[int], computed: list[int], whole: list[bool], tolerance: float
) -> tuple[dict[int, int], float]:
    """For every computed tile whose values it takes, and the 2-norm of all differences."""
    counts = Counter(holders)
    heads = [number for number, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])) if count > 1]
    heads = heads[:HEADS] if tolerance > 0 else []
    final = {number: number for number in computed}
    squares = 0.0
    for number in [*heads, *(each for each in computed if each not in heads)]:
        for head in heads if whole[number] else ():
            if head == number:
                break
            square = float((values[number] - values[head]).square().sum())
            limit = tolerance**2 * float(values[head].square().sum())
            if final[head] == head and square <= limit and math.isfinite(limit):
                final[number] = head
                squares += square
                break
    return final, math.sqrt(squares)
