"""Where a patch of one conv group lies: on the images, and its windows in memory, which may be the task's own."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.layout import may_restore, row_floats, window_rows


class Place:
    """One patch of one conv group: emits where it lies.

    Attributes:
        geometry: of the layer.
        lanes: the target's vector width.
        channels, pixels, row: channels of the conv group; pixels of a window, and floats of one as it is written.
        entry: its number among all patches and conv groups.
        image, patch_row, patch_column: where it is.
        first_channel: of the conv group.
        windows, window: the buffer that holds its windows, and where they begin in it.
    """

    def __init__(self, geometry: ConvGeometry, lanes: int, windows: Expr | None, patch: Expr, group: Expr) -> None:
        """``windows``: of all patches; None where nobody keeps them, and a patch has memory of its own."""
        self.geometry, self.lanes = geometry, lanes
        self.channels, self.pixels = geometry.in_channels // geometry.groups, geometry.window_pixels
        self.row = row_floats(geometry, lanes)
        grid_h, grid_w = geometry.patch_grid
        self.entry = emit.bind(patch * geometry.groups + group)
        self.image, place = emit.bind(patch // (grid_h * grid_w)), emit.bind(patch % (grid_h * grid_w))
        self.patch_row, self.patch_column = emit.bind(place // grid_w), emit.bind(place % grid_w)
        self.first_channel = emit.bind(group * self.channels)
        floats = window_rows(self.channels) * self.row
        if windows is None:
            self.windows, self.window = T.alloc_buffer((floats,), FLOAT32.dtype), T.int32(0)
        else:
            self.windows, self.window = windows, emit.bind(self.entry * floats)

    def own(self, row: Expr) -> Expr:
        """Where a row of its windows starts: a channel's, the sum of a group, or the mask."""
        return self.window + row * self.row


def write_either(batch: Batch, kept: int | None, write: Callable[[bool], None]) -> None:
    """Emit ``write(keeps)``; if only the call's images decide whether windows are kept, both ways and the choice."""
    if not may_restore(batch, kept):
        write(True)
    elif isinstance(batch, int) or not kept:
        write(False)
    else:
        with T.If(images_of(batch) <= kept):
            with T.Then():
                write(True)
            with T.Else():
                write(False)
