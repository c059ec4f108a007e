"""What tasks of a convolution of rounded values, as it is written, share: their cut, and the filters they ask for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import AHEAD_BYTES, STREAMED_BYTES
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.dynamic import Batch, hint_of, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.unit import ProductUnit


class DirectTasks(ABC):
    """Tasks that compute a place, a block of pixels or rows, for some tiles of output channels.

    Args:
        geometry: the convolution's.
        batch: images.
        tiling: how the kernel is cut.
        unit: what multiplies.
    """

    def __init__(self, geometry: ConvGeometry, batch: Batch, tiling: ConvTiling, unit: ProductUnit) -> None:
        self.geometry, self.tiling, self.tile = geometry, tiling, tiling.tile
        self.layout = filter_layout(geometry, self.tile.channels, unit)
        self.images, self.hint = emit.bind(images_of(batch)), hint_of(batch)
        self.streamed = self.layout.tiles * self.layout.tile_elements * unit.FILTERS.bytes >= STREAMED_BYTES

    @abstractmethod
    def write(self) -> None:
        """All tasks, in parallel."""

    def _tasks(self, places: Expr) -> tuple[Any, int]:
        """A parallel loop over the places' tasks, and how many tasks share a place."""
        chunks = math.ceil(self.layout.tiles / self.tiling.channel_tiles)
        return T.parallel(0, places * chunks), chunks

    def _split(self, task: Expr, places: Expr, chunks: int) -> tuple[Expr, tuple[Expr, Expr]]:
        """A task's place, and its tiles of output channels: the first and how many."""
        if self.tiling.channels_first:
            chunk, place = emit.bind(task // places), emit.bind(task % places)
        else:
            place, chunk = emit.bind(task // chunks), emit.bind(task % chunks)
        first = emit.bind(chunk * self.tiling.channel_tiles)
        return place, (first, emit.bind(emit.minimum(self.tiling.channel_tiles, self.layout.tiles - first)))

    def _following(self, k_tile: Expr, index: Expr, tiles: int, passes: int) -> tuple[Expr, int] | None:
        """Which filters a register tile asks for while it sums, and how many at each step.

        Args:
            k_tile: its tile of output channels.
            index: its number among those of the task that share their filters.
            tiles: how many these are.
            passes: tasks that read the same filters.
        """
        if not self.streamed:
            return None
        elements, unit = self.layout.tile_elements, self.layout.unit
        steps = self.geometry.kernel[0] * self.layout.taps * self.layout.steps
        if tiles == passes == 1:
            ahead = AHEAD_BYTES // unit.FILTERS.bytes
            return emit.bind(k_tile * elements + ahead), self.tile.channels * unit.GROUP
        stride = math.ceil(elements / (tiles * steps))
        return emit.bind(T.min(k_tile + 1, self.layout.tiles - 1) * elements + index * (steps * stride)), stride
