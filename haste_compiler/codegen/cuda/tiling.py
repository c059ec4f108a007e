"""How matrix products are cut into tiles for the blocks, warps and threads of a card."""

from __future__ import annotations

import math
from dataclasses import dataclass

from haste_compiler.codegen.cuda.emit import SHARED_BYTES, ceil_div
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.element import FLOAT32

DEPTH = 16
"""Depth of one step: columns of the first matrix and rows of the second that lie in shared memory at once."""

_ROW_PADDING = 4
_COLUMN_PADDING = 8
"""Floats between rows in shared memory, so that a warp's reads meet every bank once."""

_MOST_STAGES = 4
_LEAST_SPLIT_DEPTH = 256
_SPILL_PRODUCTS: dict[Precision, int] = {"fp32": 20, "tf32": 160, "bf16": 160}
"""Products that take as long as a sum that goes to memory and back; bfloat16's operands come as float32 too."""
_SPLITS = (1, 2, 4, 8, 16)
MOST_SPLITS = _SPLITS[-1]
"""Parts that a product's depth is cut in at most."""


@dataclass(frozen=True)
class GemmTile:
    """One block's part of a product.

    Attributes:
        rows, columns: of the output.
        warps_down, warps_across: how the block's warps share it.
        efficiency: share of the best tile's speed on the CUDA cores, roughly: larger tiles read less for each product.
    """

    rows: int
    columns: int
    warps_down: int
    warps_across: int
    efficiency: float

    def efficiency_in(self, precision: Precision) -> float:
        """Share of the best tile's speed. The tensor cores wait for what is read, by area over circumference."""
        if precision == "fp32":
            return self.efficiency
        best = TILES[0]
        return self._products_per_float / best._products_per_float

    @property
    def _products_per_float(self) -> float:
        return self.rows * self.columns / (self.rows + self.columns)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_down * self.warps_across

    @property
    def warp_rows(self) -> int:
        """Output rows of a warp."""
        return self.rows // self.warps_down

    @property
    def warp_columns(self) -> int:
        """Output columns of a warp."""
        return self.columns // self.warps_across

    @property
    def row_stride(self) -> int:
        """Floats from one row of the first matrix to the next in shared memory."""
        return DEPTH + _ROW_PADDING

    @property
    def column_stride(self) -> int:
        """Floats from one row of the second matrix to the next in shared memory."""
        return self.columns + _COLUMN_PADDING

    @property
    def stage_floats(self) -> int:
        """Shared memory of one step."""
        return self.rows * self.row_stride + DEPTH * self.column_stride

    @property
    def stages(self) -> int:
        """Steps in shared memory at once: one is computed with, the others are on their way."""
        return min(_MOST_STAGES, SHARED_BYTES // (FLOAT32.bytes * self.stage_floats))


TILES = (
    GemmTile(128, 128, 4, 2, 1.0),
    GemmTile(128, 64, 4, 2, 0.85),
    GemmTile(64, 128, 2, 4, 0.85),
    GemmTile(64, 64, 2, 2, 0.75),
    GemmTile(128, 32, 4, 1, 0.6),
    GemmTile(64, 32, 2, 1, 0.5),
    GemmTile(32, 64, 1, 2, 0.5),
    GemmTile(32, 32, 1, 1, 0.35),
)


@dataclass(frozen=True)
class GemmTiling:
    """A tile, and in how many parts the depth is cut (each part's sums go to memory and are added up afterwards)."""

    tile: GemmTile
    splits: int = 1


def choose_gemm(
    rows: int,
    columns: int,
    depth: int,
    count: int,
    processors: int,
    precision: Precision,
    most_splits: int = MOST_SPLITS,
) -> tuple[float, GemmTiling]:
    """The shortest modelled time, in products that one multiprocessor makes meanwhile, and the tiling that takes it.

    Blocks are dealt out to the multiprocessors in waves; a wave takes what one block takes. Small images give few
    blocks: cutting the depth gives more, for writing and reading their sums.

    Args:
        rows, columns, depth: of one product.
        count: products like it at once (conv groups).
        processors: multiprocessors of the card.
        precision: of the products.
        most_splits: parts that the depth may be cut in.
    """
    steps = ceil_div(depth, DEPTH)
    best: tuple[float, GemmTiling] | None = None
    for tile in TILES:
        blocks = ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns) * count
        for splits in _SPLITS:
            if splits > most_splits or (splits > 1 and depth < _LEAST_SPLIT_DEPTH * splits):
                break
            waves = math.ceil(blocks * splits / processors)
            products = tile.rows * tile.columns * (ceil_div(steps, splits) * DEPTH + 64)
            block = products / tile.efficiency_in(precision)
            spilled = 0 if splits == 1 else rows * columns * count * splits / processors
            cost = waves * block + _SPILL_PRODUCTS[precision] * spilled
            if best is None or cost < 0.98 * best[0]:
                best = (cost, GemmTiling(tile, splits))
    assert best is not None
    return best
