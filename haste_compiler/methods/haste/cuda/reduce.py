"""Sums that the threads of a block make together, in the same order at every call."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.emit import Expr, bind
from haste_compiler.methods.haste.cuda.layout import GroupLayout


class BlockTotal:
    """Emits sums over all threads of a block."""

    def __init__(self, thread: Expr, threads: int) -> None:
        self._thread, self._threads = thread, threads
        self._parts, self._totals = emit.shared(threads), emit.shared(32)

    def of(self, value: Expr) -> Expr:
        """Sum of ``value`` over the threads, for every thread the same."""
        T.buffer_store(self._parts, value, [self._thread])
        emit.barrier()
        with T.If(self._thread < 32), T.Then():
            some = emit.Variable(T.float32(0))
            with T.serial(0, self._threads // 32) as i:
                some.add(self._parts[i * 32 + self._thread])
            T.buffer_store(self._totals, some.get(), [self._thread])
        emit.barrier()
        total = emit.Variable(T.float32(0))
        with T.serial(0, 32) as i:
            total.add(self._totals[i])
        emit.barrier()
        return total.get()


class ChannelSums:
    """Emits sums over the pixels of one part of a window, for every channel, by all threads of a block."""

    def __init__(self, layout: GroupLayout, part: Expr, thread: Expr, threads: int, most: int) -> None:
        self.layout, self.thread, self.threads = layout, thread, threads
        # The warps of a block share the channels and, where there are few, the pixels.
        self._lanes = min(threads, 1 << max(5, (layout.channels - 1).bit_length()))
        self._slices = threads // self._lanes
        self._shared = emit.shared(most * threads)
        self.begin = bind(part * layout.part_pixels)
        self.pixels = bind(T.min(layout.part_pixels, layout.pixels - self.begin))

    def sum(
        self,
        count: int,
        prepare: Callable[[Expr], tuple[Expr, list[Expr]]],
        terms: Callable[[list[Expr], Expr, Expr], list[Expr]],
        done: Callable[..., None],
    ) -> None:
        """``done(c, sums...)`` by one thread for each channel.

        Args:
            count: sums.
            prepare: (c) → whether the channel has anything to sum, and what ``terms`` needs of it.
            terms: (what was prepared, c, pixel) → what the pixel adds to each sum.
            done: takes them.
        """
        channels, lanes, slices = self.layout.channels, self._lanes, self._slices
        with T.serial(0, ceil_div(channels, lanes)) as block:
            c, part = bind(block * lanes + self.thread % lanes), bind(self.thread // lanes)
            totals = [emit.Variable(T.float32(0)) for _ in range(count)]
            with T.If(c < channels), T.Then():
                wanted, prepared = prepare(c)
                with T.If(wanted), T.Then(), emit.share(self.pixels, part, slices) as item:
                    pixel = bind(self.begin + item)
                    for total, term in zip(totals, terms(prepared, c, pixel), strict=True):
                        total.add(term)
            if slices > 1:
                for index, total in enumerate(totals):
                    T.buffer_store(self._shared, total.get(), [index * self.threads + self.thread])
                emit.barrier()
            with T.If(tirx.all(part == 0, c < channels)), T.Then():
                if slices > 1:
                    for index, total in enumerate(totals):
                        with T.serial(1, slices) as other:
                            total.add(self._shared[index * self.threads + other * lanes + self.thread])
                done(c, *(total.get() for total in totals))
            emit.barrier()
