"""The first half of a HASTE convolution on a card: hash a patch's channels, group and merge them.

One block takes one patch of one conv group, so patches should be large: whole images, or as many rows as give enough
blocks. The window is read where it lies, channels side by side, as often as it is needed; what is written out is the
merged window alone, its channels packed together, which is all that the convolution reads. Decisions are made by one
thread a channel that looks at all the others: no tables, no atomics, and the same bits at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu.emit import Expr, bind
from haste_compiler.codegen.cpu.haste_group import COUNTS
from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.emit import ceil_div
from haste_compiler.haste.geometry import ConvGeometry
from haste_compiler.haste.grouping import LARGEST_ENERGY

THREADS = 512
MOST_CHANNELS = 2048
"""Input channels of a conv group whose lists fit a block's shared memory."""

_KEPT, _ZERO, _FLAT, _ALONE, _LEFT = range(5)
_SUMS, _SQUARES, _RESIDUALS = range(3)


@dataclass(frozen=True)
class CudaGroupLayout:
    """Shapes of what grouping hands on, for ``batch`` images.

    Attributes:
        merged: (patches, conv groups, window pixels, slots) float32: the merged windows. Slots are the sums of groups,
            then the mask of pixels on the image if there are flat channels, then channels that are alone, then zeros
            up to a multiple of four.
        order: (patches, conv groups, C/groups) int32: channels in the order members, flats, singles, zeros.
        coeff: the same shape, float32, by channel: a_c of members, d_c of flats, else 1.
        starts: (patches, conv groups, C/groups // 2 + 3) int32: where each group's members start in ``order``; then
            where the flats do, and where they end.
        counts: (patches, conv groups, 6) int32, see ``COUNTS``.
        bound: (patches, conv groups) float32, sum of |F_c| · |P_c - P̂_c|.
        scratch: (patches, conv groups, 3, C/groups) float32: sums, squares and residuals of every channel.
    """

    merged: tuple[int, ...]
    order: tuple[int, ...]
    coeff: tuple[int, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    bound: tuple[int, ...]
    scratch: tuple[int, ...]

    def tensors(self) -> list[tuple[str, tuple[int, ...], str]]:
        """(name, shape, dtype) in the kernels' argument order."""
        return [
            ("merged", self.merged, "float32"),
            ("order", self.order, "int32"),
            ("coeff", self.coeff, "float32"),
            ("starts", self.starts, "int32"),
            ("counts", self.counts, "int32"),
            ("bound", self.bound, "float32"),
            ("scratch", self.scratch, "float32"),
        ]


def slots(channels: int) -> int:
    """Slots of a merged window: no more than channels, in fours."""
    return ceil_div(channels, 4) * 4


def cuda_group_layout(geometry: ConvGeometry, batch: int) -> CudaGroupLayout:
    """The shapes for one layer."""
    channels = geometry.in_channels // geometry.groups
    entries = (batch * geometry.patch_grid[0] * geometry.patch_grid[1], geometry.groups)
    return CudaGroupLayout(
        merged=(*entries, geometry.window_pixels, slots(channels)),
        order=(*entries, channels),
        coeff=(*entries, channels),
        starts=(*entries, channels // 2 + 3),
        counts=(*entries, len(COUNTS)),
        bound=entries,
        scratch=(*entries, 3, channels),
    )


def haste_group_kernel(
    name: str, geometry: ConvGeometry, batch: int, *, merge: str, skip: str, planes: int
) -> tirx.PrimFunc:
    """The kernel (x NHWC, hyperplane table, |F_c|² (C,), settings (3,), then the tensors of ``CudaGroupLayout``)."""
    arguments = [
        ("x", (batch, *geometry.input_size, geometry.in_channels), "float32"),
        ("planes", (planes, 2 + geometry.window_pixels), "int32"),
        ("filter_norm2", (geometry.in_channels,), "float32"),
        ("settings", (3,), "float32"),
        *cuda_group_layout(geometry, batch).tensors(),
    ]

    def body(*buffers: Expr) -> None:
        entries = batch * geometry.patch_grid[0] * geometry.patch_grid[1] * geometry.groups
        with emit.launch((entries,), THREADS) as ((entry,), thread):
            _Group(geometry, merge, skip, buffers, entry, thread).write()

    return emit.kernel(name, arguments, body)


class _Group:
    """Emits the kernel; the methods are its steps, in order. All threads of the block take part in each."""

    def __init__(
        self,
        geometry: ConvGeometry,
        merge: str,
        skip: str,
        buffers: tuple[Expr, ...],
        entry: Expr,
        thread: Expr,
    ) -> None:
        self.geometry, self.merge, self.skip = geometry, merge, skip
        self.x, self.planes, self.filter_norm2, self.settings = buffers[:4]
        self.merged, self.order, self.coeff, self.starts, self.counts, self.bound, self.scratch = buffers[4:]
        self.entry, self.thread = entry, thread
        self.channels = geometry.in_channels // geometry.groups
        self.pixels = geometry.window_pixels
        self.codes, self.kind, self.slot, self.row = (emit.shared(self.channels, "int32") for _ in range(4))
        self.parts, self.totals = emit.shared(2 * THREADS), emit.shared(32)
        # The warps of a block share the channels and, where there are few, the pixels.
        self.lanes = min(THREADS, 1 << max(5, (self.channels - 1).bit_length()))
        self.slices = THREADS // self.lanes

    def write(self) -> None:
        """The whole kernel."""
        self._find_window()
        self._sum_windows()
        self._hash()
        self._classify()
        left = emit.Variable(T.int32(1), "int32")
        self.merges, self.groups, self.members = (emit.Variable(T.int32(0), "int32") for _ in range(3))
        # The second time without the members that left, if any did. (A loop, as TVM wants no barriers in a condition.)
        with T.serial(0, 2) as turn, T.serial(0, T.min(left.get(), 1)):
            self._form_groups(turn)
            self._list_members()
            self._merge_windows()
            self._find_coefficients()
            self._let_go(turn, left)
        self._write_rest()

    # Reading

    def _find_window(self) -> None:
        """Which pixels of the window lie on the image."""
        geometry = self.geometry
        grid_h, grid_w = geometry.patch_grid
        patch, group = bind(self.entry // geometry.groups), bind(self.entry % geometry.groups)
        self.image, place = bind(patch // (grid_h * grid_w)), bind(patch % (grid_h * grid_w))
        self.first_channel = bind(group * self.channels)
        (height, width), (sh, sw), (out_h, out_w) = geometry.input_size, geometry.stride, geometry.output_size
        patch_h, patch_w = geometry.effective_patch
        out_row, out_column = bind(place // grid_w * patch_h), bind(place % grid_w * patch_w)
        rows, columns = bind(T.min(patch_h, out_h - out_row)), bind(T.min(patch_w, out_w - out_column))
        self.top = bind(out_row * sh - geometry.padding[0])
        self.left = bind(out_column * sw - geometry.padding[2])
        reach = [(geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1 for axis in (0, 1)]
        self.row0, self.column0 = bind(T.max(0, -self.top)), bind(T.max(0, -self.left))
        self.row1 = bind(T.max(self.row0, T.min((rows - 1) * sh + reach[0], height - self.top)))
        self.column1 = bind(T.max(self.column0, T.min((columns - 1) * sw + reach[1], width - self.left)))
        self.on_image = bind((self.row1 - self.row0) * (self.column1 - self.column0))

    def _on(self, pixel: Expr) -> tuple[Expr, Expr]:
        """Whether a pixel of the window is on the image, and where its first channel is (of any if it isn't)."""
        row, column = bind(pixel // self.geometry.window[1]), bind(pixel % self.geometry.window[1])
        on = tirx.all(row >= self.row0, row < self.row1, column >= self.column0, column < self.column1)
        height, width = self.geometry.input_size
        at = ((self.image * height + self.top + row) * width + self.left + column) * self.geometry.in_channels
        return on, at + self.first_channel

    def _value(self, pixel: Expr, channel: Expr) -> Expr:
        """P_c at a pixel of the window."""
        found = emit.Variable(T.float32(0))
        on, at = self._on(pixel)
        with T.If(on), T.Then():
            found.set(self.x[at + channel])
        return found.get()

    # Sums

    def _each_channel(self, body: Callable[[Expr], None], size: int | None = None) -> None:
        """``body(c)`` by one thread for each channel (or each of ``size`` items); no barriers in it."""
        size = self.channels if size is None else size
        with T.serial(0, ceil_div(size, THREADS)) as block:
            c = bind(block * THREADS + self.thread)
            with T.If(c < size), T.Then():
                body(c)

    def _sum_for_channels(
        self, items: Expr, terms: Callable[[Expr, Expr], list[Expr]], count: int, done: Callable[..., None]
    ) -> None:
        """``done(c, sums...)`` by one thread for each channel: sums of ``count`` terms over ``items``."""
        with T.serial(0, ceil_div(self.channels, self.lanes)) as block:
            c = bind(block * self.lanes + self.thread % self.lanes)
            part = bind(self.thread // self.lanes)
            totals = [emit.Variable(T.float32(0)) for _ in range(count)]
            mine = bind(T.max(0, (items - part + self.slices - 1) // self.slices))
            with T.If(c < self.channels), T.Then(), T.serial(0, mine) as step:
                for total, term in zip(totals, terms(c, bind(step * self.slices + part)), strict=True):
                    total.add(term)
            if self.slices > 1:
                for index, total in enumerate(totals):
                    T.buffer_store(self.parts, total.get(), [index * THREADS + self.thread])
                emit.barrier()
            with T.If(tirx.all(part == 0, c < self.channels)), T.Then():
                if self.slices > 1:
                    for index, total in enumerate(totals):
                        with T.serial(1, self.slices) as other:
                            total.add(self.parts[index * THREADS + other * self.lanes + self.thread])
                done(c, *(total.get() for total in totals))
            emit.barrier()

    def _total(self, value: Callable[[Expr], Expr]) -> Expr:
        """Sum of ``value(c)`` over the channels, for every thread the same."""
        own = emit.Variable(T.float32(0))
        self._each_channel(lambda c: own.add(value(c)))
        return self._total_by_thread(own.get())

    def _total_by_thread(self, value: Expr) -> Expr:
        """Sum of ``value`` over the threads, for every thread the same; two barriers before it is known."""
        T.buffer_store(self.parts, value, [self.thread])
        emit.barrier()
        with T.If(self.thread < 32), T.Then():
            some = emit.Variable(T.float32(0))
            with T.serial(0, THREADS // 32) as i:
                some.add(self.parts[i * 32 + self.thread])
            T.buffer_store(self.totals, some.get(), [self.thread])
        emit.barrier()
        total = emit.Variable(T.float32(0))
        with T.serial(0, 32) as i:
            total.add(self.totals[i])
        emit.barrier()
        return total.get()

    def _count(self, condition: Callable[[Expr], Expr]) -> Expr:
        """How many channels fulfil a condition."""
        return tirx.Cast("int32", self._total(lambda c: tirx.Cast("float32", condition(c))))

    # Per channel

    def _read(self, numbers: Expr, index: Expr) -> Expr:
        """An element of a shared list, in a register: TVM takes no shared memory in conditions."""
        return emit.Variable(numbers[index], "int32").get()

    def _note(self, what: int, c: Expr) -> Expr:
        """Where a number of a channel is kept in ``scratch``."""
        return (self.entry * 3 + what) * self.channels + c

    def _norm2(self, c: Expr) -> Expr:
        return self.filter_norm2[self.first_channel + c]

    # The steps

    def _sum_windows(self) -> None:
        def terms(c: Expr, pixel: Expr) -> list[Expr]:
            value = T.bind(self._value(pixel, c))
            return [value, value * value]

        def done(c: Expr, total: Expr, square: Expr) -> None:
            T.buffer_store(self.scratch, total, [self._note(_SUMS, c)])
            T.buffer_store(self.scratch, square, [self._note(_SQUARES, c)])

        self._sum_for_channels(T.int32(self.pixels), terms, 2, done)

    def _hash(self) -> None:
        """bit_l = <P_c, v_l> above its mean over the channels: the same as hashing P_c minus the mean window."""
        first = self.entry * self.channels
        # Codes grow where the order will be: TVM wants barriers where shared memory is read and written in a loop.
        self._each_channel(lambda c: T.buffer_store(self.order, T.int32(0), [first + c]))
        with T.serial(0, tirx.Cast("int32", self.settings[0])) as plane:
            base = bind(plane * (2 + self.pixels))
            plus, both = bind(self.planes[base]), bind(self.planes[base] + self.planes[base + 1])

            def term(c: Expr, item: Expr, base: Expr = base, plus: Expr = plus) -> list[Expr]:
                value = T.bind(self._value(bind(self.planes[base + 2 + item]), c))
                return [tirx.Select(item < plus, value, -value)]

            # Residuals aren't known yet: their place holds the dot products.
            self._sum_for_channels(
                both, term, 1, lambda c, dot: T.buffer_store(self.scratch, dot, [self._note(_RESIDUALS, c)])
            )
            mean = self._total(lambda c: self.scratch[self._note(_RESIDUALS, c)])
            mean = emit.Variable(mean * T.float32(1.0 / self.channels)).get()

            def set_bit(c: Expr, mean: Expr = mean, plane: Expr = plane) -> None:
                above = tirx.Cast("int32", self.scratch[self._note(_RESIDUALS, c)] > mean)
                T.buffer_store(self.order, self.order[first + c] | (above << plane), [first + c])

            self._each_channel(set_bit)
        self._each_channel(lambda c: T.buffer_store(self.codes, self.order[first + c], [c]))
        emit.barrier()

    def _classify(self) -> None:
        """Which channels are zero or flat; a patch that isn't finite keeps every channel to itself."""
        squares = self._total(lambda c: self.scratch[self._note(_SQUARES, c)])
        energy = emit.Variable(squares).get()
        weighted = emit.Variable(self._total(lambda c: self.scratch[self._note(_SQUARES, c)] * self._norm2(c))).get()
        mean_square = emit.Variable(weighted * T.float32(1.0 / self.channels)).get()
        # Comparisons that NaN fails.
        largest = T.float32(np.finfo(np.float32).max)
        finite = tirx.all(energy <= T.float32(LARGEST_ENERGY), weighted <= largest)
        tolerance, flat = self.settings[1], self.settings[2]
        self.threshold = emit.Variable(tolerance * tolerance * mean_square).get()
        flat_threshold = emit.Variable(flat * flat * mean_square).get()
        self.inverse = emit.Variable(T.float32(1) / tirx.Cast("float32", T.max(self.on_image, 1))).get()

        def classify(c: Expr) -> None:
            square = T.bind(self.scratch[self._note(_SQUARES, c)])
            kind = emit.Variable(T.int32(_KEPT), "int32")
            if self.skip == "flat":
                with T.If(self._spread(c) * self._norm2(c) <= flat_threshold), T.Then():
                    kind.set(T.int32(_FLAT))
            if self.skip != "none":
                with T.If(square == T.float32(0)), T.Then():
                    kind.set(T.int32(_ZERO))
            # Not the other way round: TVM turns a comparison round that is negated, and NaN passes.
            T.buffer_store(self.kind, tirx.Select(finite, kind.get(), T.int32(_ALONE)), [c])

        self._each_channel(classify)
        emit.barrier()

    def _spread(self, c: Expr) -> Expr:
        """|P_c - d_c|², d_c the mean."""
        total = T.bind(self.scratch[self._note(_SUMS, c)])
        return self.scratch[self._note(_SQUARES, c)] - total * total * self.inverse

    def _form_groups(self, turn: Expr) -> None:
        """Kept channels of equal code share a slot, the first of them; -1 where a channel has none to share with.

        What is merged is counted: the second time those whose group has lost a member.
        """
        again = emit.Variable(T.int32(0), "int32")

        def find(c: Expr) -> None:
            lowest = emit.Variable(T.int32(-1), "int32")
            size, lost = (emit.Variable(T.int32(0), "int32") for _ in range(2))
            code = self._read(self.codes, c)
            with T.If(self._read(self.kind, c) == _KEPT), T.Then(), T.serial(0, self.channels) as other:
                alike = bind(self._read(self.codes, other) == code)
                with T.If(tirx.all(alike, self._read(self.kind, other) == _KEPT)), T.Then():
                    with T.If(lowest.get() < 0), T.Then():
                        lowest.set(other)
                    size.add(T.int32(1))
                with T.If(tirx.all(alike, self._read(self.kind, other) == _LEFT)), T.Then():
                    lost.add(T.int32(1))
            T.buffer_store(self.slot, tirx.Select(size.get() >= 2, lowest.get(), T.int32(-1)), [c])
            with T.If(tirx.all(size.get() >= 2, tirx.any(turn == 0, lost.get() > 0))), T.Then():
                again.add(T.int32(1))

        self._each_channel(find)
        self.merges.add(tirx.Cast("int32", self._total_by_thread(tirx.Cast("float32", again.get()))))
        self.members.set(self._count(lambda c: self._read(self.slot, c) >= 0))
        self.groups.set(self._count(lambda c: self._read(self.slot, c) == c))

    def _list_members(self) -> None:
        """The members group by group, those of a group in order, and where each group starts."""

        def place(c: Expr) -> None:
            before, heads = (emit.Variable(T.int32(0), "int32") for _ in range(2))
            own = self._read(self.slot, c)
            with T.If(own >= 0), T.Then():
                with T.serial(0, self.channels) as other:
                    slot = self._read(self.slot, other)
                    earlier = tirx.any(slot < own, tirx.all(slot == own, other < c))
                    before.add(tirx.Cast("int32", tirx.all(slot >= 0, earlier)))
                    heads.add(tirx.Cast("int32", tirx.all(slot == other, other < c)))
                T.buffer_store(self.order, c, [self.entry * self.channels + before.get()])
                with T.If(own == c), T.Then():
                    T.buffer_store(self.row, heads.get(), [c])
                    T.buffer_store(self.starts, before.get(), [self._start(heads.get())])

        self._each_channel(place)
        with T.If(self.thread == 0), T.Then():
            T.buffer_store(self.starts, self.members.get(), [self._start(self.groups.get())])
        emit.barrier()

    def _start(self, group: Expr) -> Expr:
        return self.entry * (self.channels // 2 + 3) + group

    def _place(self, pixel: Expr, slot: Expr) -> Expr:
        """Where a slot's pixel is in ``merged``."""
        return (self.entry * self.pixels + pixel) * slots(self.channels) + slot

    def _merge_windows(self) -> None:
        """X_g: the sum of a group's windows, or their mean."""
        groups = self.groups.get()

        def merge(item: Expr) -> None:
            pixel, group = bind(item // groups), bind(item % groups)
            begin, end = bind(self.starts[self._start(group)]), bind(self.starts[self._start(group + 1)])
            total = emit.Variable(T.float32(0))
            on, at = self._on(pixel)
            with T.If(on), T.Then(), T.serial(0, end - begin) as i:
                total.add(self.x[at + self.order[self.entry * self.channels + begin + i]])
            scale = T.float32(1) / tirx.Cast("float32", end - begin) if self.merge == "mean" else T.float32(1)
            T.buffer_store(self.merged, total.get() * scale, [self._place(pixel, group)])

        self._each_item(self.pixels * groups, merge)
        emit.barrier()

    def _each_item(self, size: Expr, body: Callable[[Expr], None]) -> None:
        """``body(item)`` by one thread for each of ``size`` items."""
        with T.serial(0, (size + THREADS - 1) // THREADS) as step:
            item = bind(step * THREADS + self.thread)
            with T.If(item < size), T.Then():
                body(item)

    def _find_coefficients(self) -> None:
        """a_c of every channel, and of members (|P_c - a_c X_g| |F_c|)²."""

        def shared(c: Expr, pixel: Expr) -> Expr:
            value = emit.Variable(T.float32(0))
            with T.If(self._read(self.slot, c) >= 0), T.Then():
                value.set(self.merged[self._place(pixel, self._read(self.row, self.slot[c]))])
            return value.get()

        def products(c: Expr, pixel: Expr) -> list[Expr]:
            own, merged = T.bind(self._value(pixel, c)), T.bind(shared(c, pixel))
            return [own * merged, merged * merged]

        def set_coefficient(c: Expr, dot: Expr, energy: Expr) -> None:
            factor = emit.Variable(T.float32(1))
            with T.If(self._read(self.slot, c) >= 0), T.Then():
                factor.set(T.float32(0))
                with T.If(energy > T.float32(0)), T.Then():
                    factor.set(dot / energy)
            T.buffer_store(self.coeff, factor.get(), [self.entry * self.channels + c])

        def ones(c: Expr) -> None:
            T.buffer_store(self.coeff, T.float32(1), [self.entry * self.channels + c])

        if self.merge == "projection":
            self._sum_for_channels(T.int32(self.pixels), products, 2, set_coefficient)
        else:
            self._each_channel(ones)
            emit.barrier()

        def square(c: Expr, pixel: Expr) -> list[Expr]:
            factor = self.coeff[self.entry * self.channels + c]
            rest = T.bind(self._value(pixel, c) - factor * shared(c, pixel))
            return [rest * rest]

        def note(c: Expr, total: Expr) -> None:
            T.buffer_store(self.scratch, total * self._norm2(c), [self._note(_RESIDUALS, c)])

        self._sum_for_channels(T.int32(self.pixels), square, 1, note)

    def _let_go(self, turn: Expr, left: emit.Variable) -> None:
        """The first time, members whose damage exceeds the tolerance leave their group."""

        def leaves(c: Expr) -> Expr:
            return tirx.all(
                turn == 0, self._read(self.slot, c) >= 0, self.scratch[self._note(_RESIDUALS, c)] > self.threshold
            )

        left.set(self._count(leaves))

        def leave(c: Expr) -> None:
            with T.If(leaves(c)), T.Then():
                T.buffer_store(self.kind, T.int32(_LEFT), [c])

        self._each_channel(leave)
        emit.barrier()

    def _write_rest(self) -> None:
        """Flat channels with their means, singles and zeros; the rest of the merged window; counts and bound."""
        entry, members, groups = self.entry, self.members.get(), self.groups.get()

        def is_single(c: Expr) -> Expr:
            alone = tirx.any(
                self._read(self.kind, c) == _KEPT, self._read(self.kind, c) == _ALONE, self._read(self.kind, c) == _LEFT
            )
            return tirx.all(alone, self._read(self.slot, c) < 0)

        flats = emit.Variable(self._count(lambda c: self._read(self.kind, c) == _FLAT), "int32").get()
        zeros = emit.Variable(self._count(lambda c: self._read(self.kind, c) == _ZERO), "int32").get()
        singles = bind(self.channels - members - flats - zeros)

        def place(c: Expr) -> None:
            flat, single, zero = (emit.Variable(T.int32(0), "int32") for _ in range(3))
            with T.serial(0, c) as other:
                flat.add(tirx.Cast("int32", self._read(self.kind, other) == _FLAT))
                zero.add(tirx.Cast("int32", self._read(self.kind, other) == _ZERO))
                single.add(tirx.Cast("int32", is_single(other)))
            at = emit.Variable(T.int32(-1), "int32")
            with T.If(self._read(self.kind, c) == _FLAT), T.Then():
                at.set(members + flat.get())
                mean = self.scratch[self._note(_SUMS, c)] * self.inverse
                T.buffer_store(self.coeff, mean, [entry * self.channels + c])
            with T.If(is_single(c)), T.Then():
                at.set(members + flats + single.get())
            with T.If(self._read(self.kind, c) == _ZERO), T.Then():
                at.set(members + flats + singles + zero.get())
            with T.If(at.get() >= 0), T.Then():
                T.buffer_store(self.order, c, [entry * self.channels + at.get()])

        self._each_channel(place)
        emit.barrier()

        def damage(c: Expr) -> Expr:
            lost = emit.Variable(T.float32(0))
            with T.If(self._read(self.slot, c) >= 0), T.Then():
                lost.set(self.scratch[self._note(_RESIDUALS, c)])
            with T.If(self._read(self.kind, c) == _FLAT), T.Then():
                lost.set(T.max(self._spread(c), T.float32(0)) * self._norm2(c))
            return tirx.sqrt(lost.get())

        bound = self._total(damage)
        merged = bind(groups + T.min(flats, 1))
        rest = bind((merged + singles + 3) // 4 * 4 - groups)

        def fill(item: Expr) -> None:
            pixel, slot = bind(item // rest), bind(groups + item % rest)
            value = emit.Variable(T.float32(0))
            on, at = self._on(pixel)
            with T.If(on), T.Then():
                with T.If(slot < merged), T.Then():
                    value.set(T.float32(1))
                with T.If(tirx.all(slot >= merged, slot < merged + singles)), T.Then():
                    first = entry * self.channels + members + flats
                    value.set(self.x[at + self.order[first + slot - merged]])
            T.buffer_store(self.merged, value.get(), [self._place(pixel, slot)])

        self._each_item(self.pixels * rest, fill)
        with T.If(self.thread == 0), T.Then():
            T.buffer_store(self.starts, members + flats, [self._start(groups + 1)])
            numbers = (singles, groups, members, zeros, flats, self.merges.get())
            for i, number in enumerate(numbers):
                T.buffer_store(self.counts, number, [entry * len(COUNTS) + i])
            T.buffer_store(self.bound, bound, [entry])
