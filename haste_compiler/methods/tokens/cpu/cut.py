"""How the matching of tokens is cut into tasks: tables that kernels read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haste_compiler.methods.tokens.reference.bipartite import first_destinations, first_sources
from haste_compiler.methods.tokens.reference.blocks import Block, Blocks

_TASK_VALUES = 1 << 15
"""Values of a task's sources: so many that packing destinations takes little beside the products."""


@dataclass(frozen=True)
class Cut:
    """Tokens in the order of their blocks, and tasks of these.

    Attributes:
        order: int32 (tokens,): by place, the number of the token; a block's destinations lie side by side, and so do
            its sources.
        blocks: int32 (blocks, 4): where destinations and sources of each begin and end, places in ``order``.
        tasks: int32 (tasks, 6): the same of each task's sources, and where the tokens begin and end that go nowhere
            and that this task says so of.
    """

    order: NDArray[np.int32]
    blocks: NDArray[np.int32]
    tasks: NDArray[np.int32]

    @property
    def most_sources(self) -> int:
        """Sources of the largest task."""
        return int((self.tasks[:, 3] - self.tasks[:, 2]).max())

    @property
    def most_destinations(self) -> int:
        """Destinations of the largest block."""
        return int((self.blocks[:, 1] - self.blocks[:, 0]).max())


def cut_blocks(blocks: Blocks, width: int) -> Cut:
    """HTTM's blocks of tokens of so many features."""
    protected = [f * blocks.of_frame + p for f in range(blocks.frames) for p in range(blocks.protected)]
    return _cut([*blocks.cut(), *([Block(protected, [])] if protected else [])], width)


def cut_none(tokens: int) -> Cut:
    """Tokens of which none merges."""
    return _cut([Block(range(tokens), [])], 1)


def cut_pairs(tokens: int, protected: int, width: int) -> Cut:
    """ToMe's two sets, one block."""
    destinations, sources = (range(first(protected), tokens, 2) for first in (first_destinations, first_sources))
    return _cut([Block(destinations, sources), *([Block(range(protected), [])] if protected else [])], width)


def _cut(blocks: Sequence[Block], width: int) -> Cut:
    order: list[int] = []
    places: list[tuple[int, ...]] = []
    tasks: list[tuple[int, ...]] = []
    most = max(1, _TASK_VALUES // width)
    for block in blocks:
        first = len(order)
        middle, end = first + len(block.destinations), first + len(block.destinations) + len(block.sources)
        order += [*block.destinations, *block.sources]
        places.append((first, middle, middle, end))
        parts = max(1, math.ceil((end - middle) / most))
        starts = [middle + part * (end - middle) // parts for part in range(parts + 1)]
        for part in range(parts):
            own = (first, middle) if part == 0 else (middle, middle)
            tasks.append((first, middle, starts[part], starts[part + 1], *own))
    return Cut(*(np.array(table, np.int32) for table in (order, places, tasks)))
