"""The first kernel of grouping on a card: what hashing and dropping channels need, in one pass over the windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.methods.haste.cuda.layout import GroupLayout
from haste_compiler.methods.haste.cuda.window import Window

_LANES, _WARPS = 32, 8
_VECTOR = 4


def pack_planes(planes: NDArray[np.float32], layout: GroupLayout) -> NDArray[np.float32]:
    """(L, window pixels) to [window pixels][L], padded with zeros to the table's width."""
    table = np.zeros((layout.pixels, layout.table_width), np.float32)
    table[:, : planes.shape[0]] = planes.T
    return table


def haste_sums_kernel(name: str, layout: GroupLayout) -> tirx.PrimFunc:
    """The kernel (x NHWC, hyperplane table, settings (3,), ``sums``).

    A block takes 32 channels, one a lane, and one part of the pixels, which its warps share. Every pixel is read once,
    and added to the sums of all hyperplanes in use; those are the same for all lanes.
    """
    channels, width = layout.channels, layout.table_width
    values = 2 + width
    arguments = layout.tensors("x", "planes", "settings", "sums")

    def body(x: Expr, planes: Expr, settings: Expr, sums: Expr) -> None:
        grid = (layout.entries, layout.parts, ceil_div(channels, _LANES))
        with emit.launch(grid, _LANES * _WARPS) as ((entry, part, block), thread):
            window = Window(layout, entry)
            lane, warp = bind(thread % _LANES), bind(thread // _LANES)
            c = bind(block * _LANES + lane)
            begin = bind(part * layout.part_pixels)
            pixels = bind(T.min(layout.part_pixels, layout.pixels - begin))
            used = bind(tirx.Cast("int32", settings[0]))
            totals = emit.registers(values)
            with emit.unroll(values) as i:
                T.buffer_store(totals, T.float32(0), [i])
            with T.If(c < channels), T.Then(), emit.share(pixels, warp, _WARPS) as item:
                pixel = bind(begin + item)
                value = bind(window.value(x, pixel, c))
                T.buffer_store(totals, totals[0] + value, [0])
                T.buffer_store(totals, totals[1] + value * value, [1])
                with emit.unroll(width // _VECTOR) as j, T.If(j * _VECTOR < used), T.Then():
                    signs = emit.registers(_VECTOR)
                    at = pixel * width + j * _VECTOR
                    T.buffer_store(signs, planes[T.ramp(at, 1, _VECTOR)], [T.ramp(0, 1, _VECTOR)])
                    with emit.unroll(_VECTOR) as k:
                        place = 2 + j * _VECTOR + k
                        T.buffer_store(totals, totals[place] + value * signs[k], [place])
            _write(sums, totals, layout.at("sums", entry, part, 0, c), values, c, channels, thread)

    return emit.kernel(name, arguments, body)


def _write(sums: Expr, totals: Expr, first: Expr, values: int, c: Expr, channels: int, thread: Expr) -> None:
    """Add up the warps' totals, and write them."""
    lane, warp = bind(thread % _LANES), bind(thread // _LANES)
    shared = emit.shared(values * _LANES * _WARPS)
    with emit.unroll(values) as i:
        T.buffer_store(shared, totals[i], [i * _LANES * _WARPS + thread])
    emit.barrier()
    with T.serial(0, ceil_div(values, _WARPS)) as step:
        i = bind(step * _WARPS + warp)
        with T.If(tirx.all(i < values, c < channels)), T.Then():
            total = emit.Variable(T.float32(0))
            with emit.unroll(_WARPS) as other:
                total.add(shared[i * _LANES * _WARPS + other * _LANES + lane])
            T.buffer_store(sums, total.get(), [first + i * channels])
