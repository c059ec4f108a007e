"""The kernels of grouping on a card that merge windows, and measure what that loses.

They share a window's pixels between blocks. Each is launched twice: for the groups as hashing formed them, and as they
are without the members that left.
"""

from __future__ import annotations

from typing import NamedTuple

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.methods.haste.cuda.decide import FLAT, KEY, ROW, SLOT
from haste_compiler.methods.haste.cuda.layout import GroupLayout
from haste_compiler.methods.haste.cuda.reduce import BlockTotal, ChannelSums
from haste_compiler.methods.haste.cuda.window import Window

_THREADS = 256


class _Block(NamedTuple):
    """What a block works on: a part of a window's pixels."""

    layout: GroupLayout
    entry: Expr
    part: Expr
    sums: ChannelSums
    window: Window

    @classmethod
    def of(cls, layout: GroupLayout, entry: Expr, part: Expr, thread: Expr, most: int) -> _Block:
        """A block that makes up to ``most`` sums for each channel at a time."""
        return cls(layout, entry, part, ChannelSums(layout, part, thread, _THREADS, most), Window(layout, entry))


def haste_merge_kernel(name: str, layout: GroupLayout, *, merge: str, last: bool) -> tirx.PrimFunc:
    """The kernel (x NHWC, ``state``, ``order``, ``starts``, ``counts``, ``merged``[, ``products``]).

    Args:
        name: its name.
        layout: of the layer.
        merge: "mean" divides a group's sum by its size; "projection" needs the products.
        last: write the other slots too.
    """
    projection = merge == "projection"
    products = ["products"] if projection else []
    arguments = layout.tensors("x", "state", "order", "starts", "counts", "merged", *products)

    def body(x: Expr, state: Expr, order: Expr, starts: Expr, counts: Expr, merged: Expr, *products: Expr) -> None:
        with emit.launch((layout.entries, layout.parts), _THREADS) as ((entry, part), thread):
            block = _Block.of(layout, entry, part, thread, most=2)
            window, sums, first = block.window, block.sums, bind(layout.at("order", entry, 0))
            found = layout.read_counts(counts, entry)
            masked = bind(found.groups + T.min(found.flats, 1))
            # Up to a multiple of four there are zeros.
            slots = bind((masked + found.singles + 3) // 4 * 4 if last else found.groups)
            with emit.share(sums.pixels * slots, thread, _THREADS) as item:
                pixel, slot = bind(sums.begin + item // slots), bind(item % slots)
                on, at = window.find(pixel)
                value = emit.Variable(T.float32(0))
                with T.If(tirx.all(on, slot < found.groups)), T.Then():
                    start = bind(layout.at("starts", entry, slot))
                    begin, end = bind(starts[start]), bind(starts[start + 1])
                    with T.serial(0, end - begin) as i:
                        value.add(x[at + order[first + begin + i]])
                    if merge == "mean":
                        value.set(value.get() * (T.float32(1) / tirx.Cast(FLOAT32.dtype, end - begin)))
                if last:
                    with T.If(tirx.all(on, slot >= found.groups, slot < masked)), T.Then():
                        value.set(T.float32(1))
                    with T.If(tirx.all(on, slot >= masked, slot < masked + found.singles)), T.Then():
                        value.set(x[at + order[first + found.members + found.flats + slot - masked]])
                T.buffer_store(merged, value.get(), [layout.at("merged", entry, pixel, slot)])
            emit.barrier()
            if projection:
                _write_products(block, x, state, merged, products[0])

    return emit.kernel(name, arguments, body)


def _write_products(block: _Block, x: Expr, state: Expr, merged: Expr, products: Expr) -> None:
    """<P_c, X_g> and <X_g, X_g> of the block's pixels, of every member."""
    layout, entry = block.layout, block.entry

    def prepare(c: Expr) -> tuple[Expr, list[Expr]]:
        return state[layout.at("state", entry, SLOT, c)] >= 0, [state[layout.at("state", entry, ROW, c)]]

    def terms(prepared: list[Expr], c: Expr, pixel: Expr) -> list[Expr]:
        own, group = block.window.value(x, pixel, c), bind(merged[layout.at("merged", entry, pixel, prepared[0])])
        return [own * group, group * group]

    def done(c: Expr, dot: Expr, energy: Expr) -> None:
        for index, value in enumerate((dot, energy)):
            T.buffer_store(products, value, [layout.at("products", entry, block.part, index, c)])

    block.sums.sum(2, prepare, terms, done)


def haste_residual_kernel(name: str, layout: GroupLayout, *, merge: str) -> tirx.PrimFunc:
    """The kernel (x NHWC, ``totals``, ``state``, ``merged``, |F_c|² (C,)[, ``products``], ``coeff``, ``residuals``)."""
    projection = merge == "projection"
    products = ["products"] if projection else []
    arguments = layout.tensors("x", "totals", "state", "merged", "norm2", *products, "coeff", "residuals")

    def body(x: Expr, totals: Expr, state: Expr, merged: Expr, norm2: Expr, *rest: Expr) -> None:
        coeff, residuals = rest[-2:]
        with emit.launch((layout.entries, layout.parts), _THREADS) as ((entry, part), thread):
            block = _Block.of(layout, entry, part, thread, most=1)
            window = block.window
            first_channel = bind(entry % layout.geometry.groups * layout.channels)

            def coefficient(c: Expr) -> Expr:
                factor = emit.Variable(T.float32(1))
                if projection:
                    with T.If(state[layout.at("state", entry, SLOT, c)] >= 0), T.Then():
                        factor.set(_projected(layout, entry, rest[0], c))
                return factor.get()

            def prepare(c: Expr) -> tuple[Expr, list[Expr]]:
                row = bind(state[layout.at("state", entry, ROW, c)])
                return state[layout.at("state", entry, SLOT, c)] >= 0, [coefficient(c), row]

            def terms(prepared: list[Expr], c: Expr, pixel: Expr) -> list[Expr]:
                factor, row = prepared
                lost = T.bind(window.value(x, pixel, c) - factor * merged[layout.at("merged", entry, pixel, row)])
                return [lost * lost]

            def done(c: Expr, total: Expr) -> None:
                value, damage = emit.Variable(coefficient(c)), emit.Variable(total)
                with T.If(tirx.all(part == 0, state[layout.at("state", entry, KEY, c)] == FLAT)), T.Then():
                    whole, square = (totals[layout.at("totals", entry, row, c)] for row in (0, 1))
                    value.set(window.mean(whole))
                    damage.set(T.max(window.spread(whole, square), T.float32(0)))
                with T.If(part == 0), T.Then():
                    T.buffer_store(coeff, value.get(), [layout.at("coeff", entry, c)])
                lost = damage.get() * norm2[first_channel + c]
                T.buffer_store(residuals, lost, [layout.at("residuals", entry, part, c)])

            block.sums.sum(1, prepare, terms, done)

    return emit.kernel(name, arguments, body)


def haste_bound_kernel(name: str, layout: GroupLayout) -> tirx.PrimFunc:
    """The kernel (``residuals``, ``bound``)."""

    def body(residuals: Expr, bound: Expr) -> None:
        with emit.launch((layout.entries,), _THREADS) as ((entry,), thread):
            own = emit.Variable(T.float32(0))
            with emit.share(layout.channels, thread, _THREADS) as c:
                lost = emit.Variable(T.float32(0))
                with emit.unroll(layout.parts) as part:
                    lost.add(residuals[layout.at("residuals", entry, part, c)])
                own.add(tirx.sqrt(lost.get()))
            total = BlockTotal(thread, _THREADS).of(own.get())
            with T.If(thread == 0), T.Then():
                T.buffer_store(bound, total, [entry])

    return emit.kernel(name, layout.tensors("residuals", "bound"), body)


def _projected(layout: GroupLayout, entry: Expr, products: Expr, c: Expr) -> Expr:
    """a_c = <P_c, X_g> / <X_g, X_g>, zero where the group's sum is."""
    dot, energy, factor = (emit.Variable(T.float32(0)) for _ in range(3))
    with emit.unroll(layout.parts) as part:
        for index, total in enumerate((dot, energy)):
            total.add(products[layout.at("products", entry, part, index, c)])
    with T.If(energy.get() > T.float32(0)), T.Then():
        factor.set(dot.get() / energy.get())
    return factor.get()
