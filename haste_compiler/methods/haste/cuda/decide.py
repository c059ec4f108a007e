"""The kernels of grouping on a card that decide: which channels are dropped, which share a group, which leave it.

One block takes one window, of which it reads sums alone. Decisions are made by one thread a channel that looks at all
the others: no tables, no atomics, and the same bits at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu.emit import Expr, bind
from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST
from haste_compiler.methods.haste.counts import COUNTS, Counts
from haste_compiler.methods.haste.cuda.layout import GroupLayout
from haste_compiler.methods.haste.cuda.reduce import BlockTotal
from haste_compiler.methods.haste.cuda.window import Window
from haste_compiler.methods.haste.reference.grouping import LARGEST_ENERGY

THREADS = 512

KEY, SLOT, ROW = range(3)
"""Rows of ``state``. The key is a channel's code if it may be merged, the code's complement if it has left its group,
and else one of those below. The slot is the first channel of its group, -1 for none, the row the group's number."""

ZERO, FLAT, ALONE = (-(1 << 30) - 1 - number for number in range(3))
"""Keys of channels that are dropped, and of those that are computed by themselves; codes have 30 bits."""


def haste_classify_kernel(name: str, layout: GroupLayout, *, skip: str) -> tirx.PrimFunc:
    """The kernel (``sums``, |F_c|² (C,), settings (3,), ``totals``, ``state``, ``order``, ``starts``, ``counts``).

    It hashes, drops channels and forms groups; of the counts it writes groups, members and merges.
    """
    arguments = layout.tensors("sums", "norm2", "settings", "totals", "state", "order", "starts", "counts")

    def body(sums: Expr, norm2: Expr, settings: Expr, totals: Expr, *made: Expr) -> None:
        with emit.launch((layout.entries,), THREADS) as ((entry,), thread):
            decide = _Decide(layout, entry, thread, norm2, totals, _Made(*made))
            decide.add_parts(sums, settings)
            decide.hash(settings)
            decide.classify(settings, skip)
            merges, none = decide.form_groups(again=False), T.int32(0)
            decide.list_members()
            decide.write_state()
            decide.write_counts(Counts(none, decide.groups, decide.members, zeros=none, flats=none, merges=merges))

    return emit.kernel(name, arguments, body)


def haste_regroup_kernel(name: str, layout: GroupLayout) -> tirx.PrimFunc:
    """The kernel (``totals``, ``residuals``, |F_c|² (C,), settings (3,), ``state`` and ``counts`` as they were, then
    ``state``, ``order``, ``starts`` and ``counts`` as they become).

    Members whose damage exceeds the tolerance leave their group, which is formed again without them.
    """
    arguments = [
        *layout.tensors("totals", "residuals", "norm2", "settings"),
        *((f"{before}_before", shape, dtype) for before, shape, dtype in layout.tensors("state", "counts")),
        *layout.tensors("state", "order", "starts", "counts"),
    ]

    def body(
        totals: Expr, residuals: Expr, norm2: Expr, settings: Expr, state: Expr, counts: Expr, *made: Expr
    ) -> None:
        with emit.launch((layout.entries,), THREADS) as ((entry,), thread):
            decide = _Decide(layout, entry, thread, norm2, totals, _Made(*made))
            decide.let_go(state, residuals, settings)
            merges = bind(decide.form_groups(again=True) + counts[layout.at("counts", entry, COUNTS.index("merges"))])
            decide.list_members()
            numbers = decide.list_rest(merges)
            decide.write_state()
            decide.write_counts(numbers)

    return emit.kernel(name, arguments, body)


class _Made(NamedTuple):
    """The tensors that a deciding kernel leaves to the next."""

    state: Expr
    order: Expr
    starts: Expr
    counts: Expr


class _Decide:
    """Emits the steps, in which all threads of the block take part."""

    def __init__(self, layout: GroupLayout, entry: Expr, thread: Expr, norm2: Expr, totals: Expr, made: _Made) -> None:
        self.layout, self.entry, self.thread = layout, entry, thread
        self.norm2, self.totals = norm2, totals
        self.state, self.order, self.starts, self.counts = made
        self.channels = layout.channels
        self.first_channel = bind(entry % layout.geometry.groups * self.channels)
        self.lists = [emit.shared(self.channels, "int32") for _ in range(3)]
        self.keys, self.slot, self.row = self.lists
        self.block_total = BlockTotal(thread, THREADS)

    # Per channel

    def _each_channel(self, body: Callable[[Expr], None]) -> None:
        """``body(c)`` by one thread for each channel; no barriers in it."""
        with T.serial(0, ceil_div(self.channels, THREADS)) as block:
            c = bind(block * THREADS + self.thread)
            with T.If(c < self.channels), T.Then():
                body(c)

    def _total(self, value: Callable[[Expr], Expr]) -> Expr:
        """Sum of ``value(c)`` over the channels, for every thread the same."""
        own = emit.Variable(T.float32(0))
        self._each_channel(lambda c: own.add(value(c)))
        return self.block_total.of(own.get())

    def _count(self, condition: Callable[[Expr], Expr]) -> Expr:
        """How many channels fulfil a condition."""
        return tirx.Cast("int32", self._total(lambda c: tirx.Cast(FLOAT32.dtype, condition(c))))

    def _read(self, numbers: Expr, index: Expr) -> Expr:
        """An element of a shared list, in a register: TVM takes no shared memory in conditions."""
        return emit.Variable(numbers[index], "int32").get()

    def _at(self, name: str, *place: Expr) -> Expr:
        """Where an element of a tensor is, of this window's."""
        return self.layout.at(name, self.entry, *place)

    def _whole(self, value: Expr, c: Expr) -> Expr:
        """Where a sum over all parts is in ``totals``: of values (0), of squares (1), with hyperplanes (from 2)."""
        return self._at("totals", value, c)

    def _square(self, c: Expr) -> Expr:
        return self.totals[self._whole(1, c)]

    def _norm2(self, c: Expr) -> Expr:
        return self.norm2[self.first_channel + c]

    def _mean_square(self) -> Expr:
        """Sum of (|P_c| · |F_c|)²."""
        return emit.Variable(self._total(lambda c: self._square(c) * self._norm2(c))).get()

    # The steps

    def add_parts(self, sums: Expr, settings: Expr) -> None:
        """Sums over whole windows, of the hyperplanes in use."""
        used = bind((2 + tirx.Cast("int32", settings[0])) * self.channels)
        # All of a part's sums in one row.
        with emit.share(used, self.thread, THREADS) as item:
            total = emit.Variable(T.float32(0))
            with emit.unroll(self.layout.parts) as part:
                total.add(sums[self._at("sums", part, 0, item)])
            T.buffer_store(self.totals, total.get(), [self._whole(0, item)])
        emit.barrier()

    def hash(self, settings: Expr) -> None:
        """bit_l = <P_c, v_l> above its mean over the channels: the same as hashing P_c minus the mean window."""
        # Codes grow where the order will be: TVM wants barriers where shared memory is read and written in a loop.
        self._each_channel(lambda c: T.buffer_store(self.order, T.int32(0), [self._at("order", c)]))
        with T.serial(0, tirx.Cast("int32", settings[0])) as plane:
            mean = self._total(lambda c: self.totals[self._whole(plane + 2, c)])
            mean = emit.Variable(mean * T.float32(1.0 / self.channels)).get()

            def set_bit(c: Expr, mean: Expr = mean, plane: Expr = plane) -> None:
                above = tirx.Cast("int32", self.totals[self._whole(plane + 2, c)] > mean)
                at = self._at("order", c)
                T.buffer_store(self.order, self.order[at] | (above << plane), [at])

            self._each_channel(set_bit)

    def classify(self, settings: Expr, skip: str) -> None:
        """Which channels are zero or flat; a patch that isn't finite keeps every channel to itself."""
        energy = emit.Variable(self._total(self._square)).get()
        weighted = self._mean_square()
        # Comparisons that NaN fails.
        largest = T.float32(LARGEST)
        finite = tirx.all(energy <= T.float32(LARGEST_ENERGY), weighted <= largest)
        flat = settings[2]
        threshold = emit.Variable(flat * flat * (weighted * T.float32(1.0 / self.channels))).get()
        window = Window(self.layout, self.entry)

        def classify(c: Expr) -> None:
            square = T.bind(self._square(c))
            key = emit.Variable(self.order[self._at("order", c)], "int32")
            if skip == "flat":
                spread = window.spread(self.totals[self._whole(0, c)], square)
                with T.If(spread * self._norm2(c) <= threshold), T.Then():
                    key.set(T.int32(FLAT))
            if skip != "none":
                with T.If(square == T.float32(0)), T.Then():
                    key.set(T.int32(ZERO))
            # Not the other way round: TVM turns a comparison round that is negated, and NaN passes.
            T.buffer_store(self.keys, tirx.Select(finite, key.get(), T.int32(ALONE)), [c])

        self._each_channel(classify)
        emit.barrier()

    def write_state(self) -> None:
        """Leave the lists to the next kernel."""

        def write(c: Expr) -> None:
            for index, numbers in enumerate(self.lists):
                T.buffer_store(self.state, numbers[c], [self._at("state", index, c)])

        self._each_channel(write)

    def let_go(self, state: Expr, residuals: Expr, settings: Expr) -> None:
        """Members whose damage exceeds the tolerance leave their group."""
        tolerance, parts = settings[1], self.layout.parts
        mean_square = self._mean_square() * T.float32(1.0 / self.channels)
        threshold = emit.Variable(tolerance * tolerance * mean_square).get()

        def leave(c: Expr) -> None:
            damage = emit.Variable(T.float32(0))
            with emit.unroll(parts) as part:
                damage.add(residuals[self._at("residuals", part, c)])
            key, slot = (bind(state[self._at("state", row, c)]) for row in (KEY, SLOT))
            left = tirx.all(slot >= 0, damage.get() > threshold)
            T.buffer_store(self.keys, tirx.Select(left, ~key, key), [c])

        self._each_channel(leave)
        emit.barrier()

    def form_groups(self, again: bool) -> Expr:
        """Kept channels of equal code share a slot, the first of them; -1 where a channel has none to share with.

        Returns how many channels are merged now: all members, or ``again`` those whose group has lost one.
        """
        merged = emit.Variable(T.int32(0), "int32")

        def find(c: Expr) -> None:
            lowest = emit.Variable(T.int32(self.channels), "int32")
            size, lost = (emit.Variable(T.int32(0), "int32") for _ in range(2))
            key = self._read(self.keys, c)
            with T.If(key >= 0), T.Then(), T.serial(0, self.channels) as other:
                found = self._read(self.keys, other)
                lowest.set(T.min(lowest.get(), tirx.Select(found == key, other, T.int32(self.channels))))
                size.add(tirx.Cast("int32", found == key))
                lost.add(tirx.Cast("int32", found == ~key))
            T.buffer_store(self.slot, tirx.Select(size.get() >= 2, lowest.get(), T.int32(-1)), [c])
            with T.If(size.get() >= 2), T.Then():
                merged.add(tirx.Cast("int32", lost.get() > 0) if again else T.int32(1))

        self._each_channel(find)
        merges = tirx.Cast("int32", self.block_total.of(tirx.Cast(FLOAT32.dtype, merged.get())))
        merges = emit.Variable(merges, "int32").get()
        self.members = emit.Variable(self._count(lambda c: self._read(self.slot, c) >= 0), "int32").get()
        self.groups = emit.Variable(self._count(lambda c: self._read(self.slot, c) == c), "int32").get()
        return merges

    def list_members(self) -> None:
        """The members group by group, those of a group in order, and where each group starts."""

        def place(c: Expr) -> None:
            before, heads = (emit.Variable(T.int32(0), "int32") for _ in range(2))
            own = self._read(self.slot, c)
            with T.If(own >= 0), T.Then():
                with T.serial(0, self.channels) as other:
                    slot = self._read(self.slot, other)
                    earlier = tirx.any(slot < own, tirx.all(slot == own, other < c))
                    before.add(tirx.Cast("int32", tirx.all(slot >= 0, earlier)))
                    heads.add(tirx.Cast("int32", tirx.all(slot == other, other < own)))
                T.buffer_store(self.order, c, [self._at("order", before.get())])
                with T.If(own == c), T.Then():
                    T.buffer_store(self.starts, before.get(), [self._at("starts", heads.get())])
            T.buffer_store(self.row, heads.get(), [c])

        self._each_channel(place)
        with T.If(self.thread == 0), T.Then():
            T.buffer_store(self.starts, self.members, [self._at("starts", self.groups)])
        emit.barrier()

    def list_rest(self, merges: Expr) -> Counts:
        """Flat channels, singles and zeros in the order, behind the members; returns the counts."""
        kinds = emit.shared(self.channels, "int32")

        def settle(c: Expr) -> None:
            key, slot = self._read(self.keys, c), self._read(self.slot, c)
            dropped = tirx.any(key == FLAT, key == ZERO)
            # Zero is none of the others' keys.
            settled = tirx.Select(slot >= 0, T.int32(0), tirx.Select(dropped, key, T.int32(ALONE)))
            T.buffer_store(kinds, settled, [c])

        self._each_channel(settle)
        emit.barrier()
        members = self.members
        flats = emit.Variable(self._count(lambda c: self._read(kinds, c) == FLAT), "int32").get()
        zeros = emit.Variable(self._count(lambda c: self._read(kinds, c) == ZERO), "int32").get()
        singles = bind(self.channels - members - flats - zeros)

        def place(c: Expr) -> None:
            own = self._read(kinds, c)
            with T.If(own != 0), T.Then():
                before = emit.Variable(members, "int32")
                with T.If(own != FLAT), T.Then():
                    before.add(flats)
                with T.If(own == ZERO), T.Then():
                    before.add(singles)
                with T.serial(0, c) as other:
                    before.add(tirx.Cast("int32", self._read(kinds, other) == own))
                T.buffer_store(self.order, c, [self._at("order", before.get())])

        self._each_channel(place)
        with T.If(self.thread == 0), T.Then():
            T.buffer_store(self.starts, members + flats, [self._at("starts", self.groups + 1)])
        return Counts(singles, self.groups, members, zeros, flats, merges)

    def write_counts(self, numbers: Counts) -> None:
        """What was counted."""
        with T.If(self.thread == 0), T.Then():
            for index, number in enumerate(numbers):
                T.buffer_store(self.counts, number, [self._at("counts", index)])
