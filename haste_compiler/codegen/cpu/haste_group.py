"""The first half of a HASTE convolution: read each patch's window, hash its channels, group and merge them.

One task is one patch of one conv group. The window is read channel-last, where hashing and norms run with channels in
the lanes and cost little, then transposed, because merging and the convolution want each channel's pixels together.
Only what the second half reads is written out: the windows of singles and groups, and a list of the channels in the
order singles, members of groups, flat ones, zeros. Channels are sorted into lists without branches: what becomes of a
channel can't be predicted, and a mispredicted branch costs more than the work it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.emit import Expr
from haste_compiler.haste.geometry import ConvGeometry
from haste_compiler.haste.grouping import LARGEST_ENERGY

COUNTS = ("singles", "groups", "members", "zeros", "flats")
"""What the counts of a patch hold, in order."""

_KEPT, _ZERO, _FLAT, _ALONE = 0, 1, 2, 3


@dataclass(frozen=True)
class GroupLayout:
    """Shapes of what grouping hands to the convolution, for ``batch`` images.

    Attributes:
        windows: (patches, conv groups, C/groups + 1, window pixels padded to whole vectors); the last row is the mask
            of pixels on the image, written where flat channels need it.
        order: (patches, conv groups, C/groups) int32, channels in the order singles, members, flats, zeros.
        coeff: the same shape, float32: a_c of members, d_c of flats.
        starts: (patches, conv groups, C/groups // 2 + 2) int32, where each group's members start in ``order``.
        counts: (patches, conv groups, 5) int32, see ``COUNTS``.
        bound: (patches, conv groups) float32, sum of |F_c| · |P_c - P̂_c|.
    """

    windows: tuple[int, ...]
    order: tuple[int, ...]
    coeff: tuple[int, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    bound: tuple[int, ...]

    def tensors(self) -> list[tuple[str, tuple[int, ...], str]]:
        """(name, shape, dtype) in the kernels' argument order."""
        return [
            ("windows", self.windows, "float32"),
            ("order", self.order, "int32"),
            ("coeff", self.coeff, "float32"),
            ("starts", self.starts, "int32"),
            ("counts", self.counts, "int32"),
            ("bound", self.bound, "float32"),
        ]


def row_floats(geometry: ConvGeometry, lanes: int) -> int:
    """Floats of one channel's window, padded to whole vectors."""
    return -(-geometry.window_pixels // lanes) * lanes


def group_layout(geometry: ConvGeometry, batch: int, lanes: int) -> GroupLayout:
    """The shapes for one layer."""
    patches = batch * geometry.patch_grid[0] * geometry.patch_grid[1]
    groups, channels = geometry.groups, geometry.in_channels // geometry.groups
    return GroupLayout(
        windows=(patches, groups, channels + 1, row_floats(geometry, lanes)),
        order=(patches, groups, channels),
        coeff=(patches, groups, channels),
        starts=(patches, groups, channels // 2 + 2),
        counts=(patches, groups, len(COUNTS)),
        bound=(patches, groups),
    )


def reads_padding(geometry: ConvGeometry, top: Expr, left: Expr, rows: Expr, columns: Expr) -> Expr:
    """Whether the outputs of the patch whose window begins at (top, left) read a pixel off the image."""
    (kh, kw), (dh, dw), (sh, sw) = geometry.kernel, geometry.dilation, geometry.stride
    bottom, right = top + (rows - 1) * sh + (kh - 1) * dh, left + (columns - 1) * sw + (kw - 1) * dw
    return tirx.any(top < 0, left < 0, bottom >= geometry.input_size[0], right >= geometry.input_size[1])


def pack_hyperplanes(planes: NDArray[np.float32]) -> NDArray[np.int32]:
    """(L, window pixels) ternary to (L, 2 + window pixels): how many +1, how many -1, then their positions."""
    table = np.zeros((planes.shape[0], 2 + planes.shape[1]), np.int32)
    for row, plane in zip(table, planes, strict=True):
        plus, minus = np.flatnonzero(plane > 0), np.flatnonzero(plane < 0)
        row[0], row[1] = len(plus), len(minus)
        row[2 : 2 + len(plus) + len(minus)] = np.concatenate([plus, minus])
    return table


def haste_group_kernel(
    name: str, geometry: ConvGeometry, batch: int, lanes: int, *, merge: str, skip: str, planes: int
) -> tirx.PrimFunc:
    """The kernel (x NHWC, hyperplane table, |F_c|² (C,), settings (3,), then the tensors of ``GroupLayout``)."""
    height, width = geometry.input_size
    arguments = [
        ("x", (batch, height, width, geometry.in_channels), "float32"),
        ("planes", (planes, 2 + geometry.window_pixels), "int32"),
        ("filter_norm2", (geometry.in_channels,), "float32"),
        ("settings", (3,), "float32"),
        *group_layout(geometry, batch, lanes).tensors(),
    ]

    def body(*buffers: Expr) -> None:
        _Group(geometry, batch, lanes, merge, skip, buffers).write()

    return emit.kernel(name, arguments, body)


class _Group:
    """Emits the kernel; the methods are the steps of one patch, in order."""

    def __init__(
        self, geometry: ConvGeometry, batch: int, lanes: int, merge: str, skip: str, buffers: tuple[Expr, ...]
    ) -> None:
        self.geometry, self.batch, self.lanes, self.merge, self.skip = geometry, batch, lanes, merge, skip
        (self.x, self.planes, self.filter_norm2, self.settings) = buffers[:4]
        (self.windows, self.order, self.coeff, self.starts, self.counts, self.bound) = buffers[4:]
        self.channels = geometry.in_channels // geometry.groups
        self.row = row_floats(geometry, lanes)
        self.pixels = geometry.window_pixels

    def write(self) -> None:
        """All patches, in parallel."""
        grid_h, grid_w = self.geometry.patch_grid
        groups = self.geometry.groups
        with T.parallel(0, self.batch * grid_h * grid_w * groups) as task:
            patch, group = emit.bind(task // groups), emit.bind(task % groups)
            image, place = emit.bind(patch // (grid_h * grid_w)), emit.bind(patch % (grid_h * grid_w))
            self._allocate()
            self.task, self.first_channel = task, emit.bind(group * self.channels)
            self.window = emit.bind(task * (self.channels + 1) * self.row)
            self.list = emit.bind(task * self.channels)
            self._read_window(image, emit.bind(place // grid_w), emit.bind(place % grid_w))
            self._transpose()
            self._hash()
            self._classify()
            self._sort_by_kind()
            self._form_groups()
            self._leave()
            self._write_singles()
            self._write_members()
            self._write_dropped()

    def _allocate(self) -> None:
        """Scratch memory of one patch."""
        size = self.channels
        self.table_size = 1 << max(1, (2 * size - 1).bit_length())
        floats = {"sums": size, "squares": size, "dots": size, "factor": size, "residual": size, "energy": size}
        floats |= {"last": self.row * size, "own": self.row * size}
        integers = {name: size for name in ("codes", "kind", "slot", "size", "first", "changed", "fill")}
        integers |= {name: size for name in ("kept", "singles", "members", "stayed", "slots", "flats", "zeros")}
        integers["table"] = self.table_size
        self.floats = {name: T.alloc_buffer((length,), "float32") for name, length in floats.items()}
        self.integers = {name: T.alloc_buffer((length,), "int32") for name, length in integers.items()}
        self.lengths = {
            name: emit.Register(1, T.int32(0), "int32")
            for name in ("kept", "singles", "members", "stayed", "slots", "flats", "zeros")
        }
        self.threshold, self.damage = emit.Register(1, 0.0), emit.Register(1, 0.0)

    # Lists

    def _get(self, name: str, index: Expr) -> Expr:
        return (self.integers[name] if name in self.integers else self.floats[name])[index]

    def _set(self, name: str, index: Expr, value: Expr) -> None:
        T.buffer_store(self.integers[name] if name in self.integers else self.floats[name], value, [index])

    def _length(self, name: str) -> Expr:
        return self.lengths[name].get()

    def _append_if(self, name: str, value: Expr, condition: Expr) -> None:
        """Write past the list's end, and move the end only if the condition holds."""
        end = self.lengths[name]
        self._set(name, T.min(end.get(), self.channels - 1), value)
        end.set(end.get() + tirx.Cast("int32", condition))

    def _fill(self, name: str, value: int) -> None:
        buffer = self.integers[name]
        length = self.table_size if name == "table" else self.channels
        emit.sweep(length, self.lanes, lambda i, n: emit.store(buffer, i, emit.splat(T.int32(value), n), n))

    # The steps

    def _read_window(self, image: Expr, patch_row: Expr, patch_column: Expr) -> None:
        """Copy the window channel-last, zeros where nothing is read; sums and squared norms of every channel."""
        geometry, size, last = self.geometry, self.channels, self.floats["last"]
        (height, width), (_, qw) = geometry.input_size, geometry.window
        top, _, left, _ = geometry.padding
        (sh, sw), (out_h, out_w) = geometry.stride, geometry.output_size
        patch_h, patch_w = geometry.effective_patch
        rows = emit.bind(T.min(patch_h, out_h - patch_row * patch_h))
        columns = emit.bind(T.min(patch_w, out_w - patch_column * patch_w))
        origin_y = emit.bind(patch_row * patch_h * sh - top)
        origin_x = emit.bind(patch_column * patch_w * sw - left)
        reach_h, reach_w = (
            (geometry.kernel[0] - 1) * geometry.dilation[0],
            (geometry.kernel[1] - 1) * geometry.dilation[1],
        )
        self.row0, self.column0 = emit.bind(T.max(0, -origin_y)), emit.bind(T.max(0, -origin_x))
        row1 = emit.bind(T.min((rows - 1) * sh + reach_h + 1, height - origin_y))
        column1 = emit.bind(T.min((columns - 1) * sw + reach_w + 1, width - origin_x))
        self.rows, self.columns = emit.bind(T.max(0, row1 - self.row0)), emit.bind(T.max(0, column1 - self.column0))
        self.on_image = emit.bind(self.rows * self.columns)
        self.on_border = emit.bind(reads_padding(geometry, origin_y, origin_x, rows, columns))

        def zero(start: Expr, floats: int) -> None:
            emit.sweep(floats, self.lanes, lambda i, n: emit.store(last, start + i, emit.splat(0.0, n), n))

        with T.If(self.on_image < self.pixels), T.Then():
            zero(0, self.pixels * size)
        zero(self.pixels * size, (self.row - self.pixels) * size)

        def read(channel: Expr, n: int) -> None:
            total, square = emit.Register(n, 0.0), emit.Register(n, 0.0)
            with T.serial(0, self.rows) as r:
                row = emit.bind(r + self.row0)
                start = ((image * height + origin_y + row) * width + origin_x + self.column0) * geometry.in_channels
                source = emit.bind(start + self.first_channel + channel)
                target = emit.bind((row * qw + self.column0) * size + channel)
                with T.serial(0, self.columns) as column:
                    value = T.bind(emit.load(self.x, source + column * geometry.in_channels, n))
                    emit.store(last, target + column * size, value, n)
                    total.add(value)
                    square.add(value * value)
            emit.store(self.floats["sums"], channel, total.get(), n)
            emit.store(self.floats["squares"], channel, square.get(), n)

        emit.sweep(size, self.lanes, read)

    def _transpose(self) -> None:
        """The window channel-first, a square of vectors at a time."""
        size, lanes, last, own = self.channels, self.lanes, self.floats["last"], self.floats["own"]

        def columns(channel: Expr, n: int) -> None:
            with T.serial(0, self.row // lanes) as block:
                pixel = emit.bind(block * lanes)
                if n == lanes:
                    rows = [T.bind(emit.load(last, (pixel + p) * size + channel, n)) for p in range(lanes)]
                    for c, values in enumerate(emit.transposed(rows)):
                        emit.store(own, (channel + c) * self.row + pixel, values, lanes)
                else:
                    for p in range(lanes):
                        values = emit.load(last, (pixel + p) * size + channel, n)
                        emit.store(own, channel * self.row + pixel + p, values, n, stride=self.row)

        emit.sweep(size, lanes, columns)

    def _hash(self) -> None:
        """bit_l = <P_c, v_l> above its mean over the channels: the same as hashing P_c minus the mean window."""
        size, lanes, codes, dots = self.channels, self.lanes, self.integers["codes"], self.floats["dots"]
        self._fill("codes", 0)
        wide = 4 * lanes
        with T.serial(0, tirx.Cast("int32", self.settings[0])) as plane:
            base = emit.bind(plane * (2 + self.pixels))
            plus, minus = emit.bind(self.planes[base]), emit.bind(self.planes[base + 1])
            if size >= wide:
                with T.serial(0, size // wide) as block:
                    self._dots([(block * wide + v * lanes, lanes) for v in range(4)], base, plus, minus)
            rest = [(size // wide * wide + start, n) for start, n in emit.chunks(size % wide, lanes)]
            if rest:
                self._dots(rest, base, plus, minus)
            mean = emit.bind(self._sum(lambda c, n: emit.load(dots, c, n)) * T.float32(1.0 / size))
            bit = emit.bind(T.int32(1) << plane)

            def set_bit(c: Expr, n: int, mean: Expr = mean, bit: Expr = bit) -> None:
                above = emit.load(dots, c, n) > emit.splat(mean, n)
                code = tirx.Select(above, emit.splat(bit, n), emit.splat(T.int32(0), n))
                emit.store(codes, c, emit.load(codes, c, n) + code, n)

            emit.sweep(size, lanes, set_bit)

    def _dots(self, pieces: list[tuple[Expr, int]], base: Expr, plus: Expr, minus: Expr) -> None:
        sums = [emit.Register(n) for _, n in pieces]
        for register in sums:
            register.set(emit.splat(0.0, register.lanes))
        for first, count, sign in ((base + 2, plus, 1), (base + 2 + plus, minus, -1)):
            with T.serial(0, count) as i:
                pixel = emit.bind(self.planes[first + i] * self.channels)
                for register, (channel, n) in zip(sums, pieces, strict=True):
                    value = emit.load(self.floats["last"], pixel + channel, n)
                    register.set(register.get() + value if sign > 0 else register.get() - value)
        for register, (channel, n) in zip(sums, pieces, strict=True):
            emit.store(self.floats["dots"], channel, register.get(), n)

    def _sum(self, value: Callable[[Expr, int], Expr], size: int | None = None) -> Expr:
        """Sum of ``value(start, lanes)`` over ``size`` elements (default: the channels)."""
        size = self.channels if size is None else size
        whole, rest = size // self.lanes, emit.chunks(size % self.lanes, self.lanes)
        total = emit.Register(1)
        total.set(T.float32(0))
        if whole:
            wide = emit.Register(self.lanes)
            wide.set(emit.splat(0.0, self.lanes))
            with T.serial(0, whole) as i:
                wide.add(value(i * self.lanes, self.lanes))
            total.set(wide.total())
        for start, n in rest:
            part = emit.Register(n)
            part.set(value(whole * self.lanes + start, n))
            total.set(total.get() + part.total())
        return total.get()

    def _norm2(self, c: Expr, n: int = 1) -> Expr:
        return emit.load(self.filter_norm2, self.first_channel + c, n)

    def _classify(self) -> None:
        """Which channels are zero or flat; a patch that isn't finite keeps every channel to itself."""
        size, lanes, kind = self.channels, self.lanes, self.integers["kind"]
        squares, sums = self.floats["squares"], self.floats["sums"]
        weighted = emit.bind(self._sum(lambda c, n: emit.load(squares, c, n) * self._norm2(c, n)))
        mean_square = emit.bind(weighted * T.float32(1.0 / size))
        energy = emit.bind(self._sum(lambda c, n: emit.load(squares, c, n)))
        # Comparisons that NaN fails; energy - energy == 0 would be simplified to true.
        largest = T.float32(np.finfo(np.float32).max)
        finite = emit.bind(tirx.all(energy <= T.float32(LARGEST_ENERGY), weighted <= largest))
        tolerance, flat = self.settings[1], self.settings[2]
        self.threshold.set(tolerance * tolerance * mean_square)
        flat_threshold = emit.bind(flat * flat * mean_square)
        self.inverse = emit.bind(T.float32(1) / tirx.Cast("float32", T.max(self.on_image, 1)))
        with T.If(finite):
            with T.Then():

                def classify(c: Expr, n: int) -> None:
                    result = emit.splat(T.int32(_KEPT), n)
                    square = T.bind(emit.load(squares, c, n))
                    if self.skip == "flat":
                        total = T.bind(emit.load(sums, c, n))
                        rest = square - total * total * emit.splat(self.inverse, n)
                        is_flat = rest * self._norm2(c, n) <= emit.splat(flat_threshold, n)
                        result = tirx.Select(is_flat, emit.splat(T.int32(_FLAT), n), result)
                    if self.skip != "none":
                        is_zero = square == emit.splat(0.0, n)
                        result = tirx.Select(is_zero, emit.splat(T.int32(_ZERO), n), result)
                    emit.store(kind, c, result, n)

                emit.sweep(size, lanes, classify)
            with T.Else():
                self._fill("kind", _ALONE)

    def _sort_by_kind(self) -> None:
        """Lists of the kept, zero and flat channels, and of those that are alone from the start."""
        for register in self.lengths.values():
            register.set(T.int32(0))
        with T.serial(0, self.channels) as c:
            kind = emit.bind(self._get("kind", c))
            for name, which in (("kept", _KEPT), ("zeros", _ZERO), ("flats", _FLAT), ("singles", _ALONE)):
                self._append_if(name, c, kind == which)

    def _form_groups(self) -> None:
        """Kept channels of equal code share a slot, the first of them; those alone in theirs are singles."""
        self._fill("table", -1)
        self._fill("size", 0)
        with T.serial(0, self._length("kept")) as i:
            c = emit.bind(self._get("kept", i))
            code = emit.bind(self._get("codes", c))
            # Folded by xor: TVM promises LLVM that a product never overflows, so no multiplicative hash.
            mixed = code ^ (code >> 7) ^ (code >> 15) ^ (code >> 22)
            place, slot = emit.Register(1, dtype="int32"), emit.Register(1, dtype="int32")
            place.set(mixed & (self.table_size - 1))
            slot.set(T.int32(-1))
            with T.While(slot.get() < 0):
                holder = emit.bind(self._get("table", place.get()))
                with T.If(holder < 0):
                    with T.Then():
                        self._set("table", place.get(), c)
                        slot.set(c)
                    with T.Else(), T.If(self._get("codes", T.max(holder, 0)) == code):
                        with T.Then():
                            slot.set(holder)
                        with T.Else():
                            place.set((place.get() + 1) & (self.table_size - 1))
            self._set("slot", c, slot.get())
            self._set("size", slot.get(), self._get("size", slot.get()) + 1)
        with T.serial(0, self._length("kept")) as i:
            c = emit.bind(self._get("kept", i))
            slot = emit.bind(self._get("slot", c))
            together = emit.bind(self._get("size", slot) >= 2)
            self._append_if("members", c, together)
            self._append_if("singles", c, tirx.Not(together))
            self._append_if("slots", c, tirx.all(together, slot == c))
            self._set("changed", c, T.int32(1))
        self._merge()

    def _merge(self) -> None:
        """X_g of the changed groups into the windows of their slots; then a_c and the residuals of their members."""
        with T.serial(0, self._length("members")) as i:
            c = emit.bind(self._get("members", i))
            slot = emit.bind(self._get("slot", c))
            with T.If(self._get("changed", slot) > 0), T.Then():
                source, target = emit.bind(c * self.row), emit.bind(self.window + slot * self.row)
                first = emit.bind(slot == c)

                def add(i: Expr, n: int, source: Expr = source, target: Expr = target, first: Expr = first) -> None:
                    before = tirx.Select(
                        emit.splat(first, n), emit.splat(0.0, n), emit.load(self.windows, target + i, n)
                    )
                    emit.store(self.windows, target + i, before + emit.load(self.floats["own"], source + i, n), n)

                emit.sweep(self.row, self.lanes, add)
        with T.serial(0, self._length("slots")) as i:
            slot = emit.bind(self._get("slots", i))
            with T.If(self._get("changed", slot) > 0), T.Then():
                self._finish_sum(slot, emit.bind(self.window + slot * self.row))
        with T.serial(0, self._length("members")) as i:
            c = emit.bind(self._get("members", i))
            slot = emit.bind(self._get("slot", c))
            with T.If(self._get("changed", slot) > 0), T.Then():
                self._coefficient(c, slot)

    def _finish_sum(self, slot: Expr, target: Expr) -> None:
        """Divide by the size (mean), or take the squared norm (projection) of a group's sum."""
        if self.merge == "mean":
            scale = emit.bind(T.float32(1) / tirx.Cast("float32", T.max(self._get("size", slot), 1)))

            def divide(i: Expr, n: int) -> None:
                emit.store(self.windows, target + i, emit.load(self.windows, target + i, n) * emit.splat(scale, n), n)

            emit.sweep(self.row, self.lanes, divide)
        else:

            def square(i: Expr, n: int) -> Expr:
                value = T.bind(emit.load(self.windows, target + i, n))
                return value * value

            self._set("energy", slot, self._sum(square, self.row))

    def _coefficient(self, c: Expr, slot: Expr) -> None:
        """a_c and (|P_c - a_c X_g| |F_c|)² of one member."""
        own, shared = emit.bind(c * self.row), emit.bind(self.window + slot * self.row)
        factor = T.float32(1)
        if self.merge == "projection":

            def product(i: Expr, n: int) -> Expr:
                return emit.load(self.floats["own"], own + i, n) * emit.load(self.windows, shared + i, n)

            dot = emit.bind(self._sum(product, self.row))
            energy = emit.bind(self._get("energy", slot))
            # The divisor is never zero, also in the lane that Select doesn't take.
            some = energy > T.float32(0)
            factor = tirx.Select(some, dot / tirx.Select(some, energy, T.float32(1)), T.float32(0))
        a = T.bind(factor)

        def square(i: Expr, n: int) -> Expr:
            rest = emit.load(self.windows, shared + i, n) * emit.splat(a, n)
            rest = T.bind(emit.load(self.floats["own"], own + i, n) - rest)
            return rest * rest

        self._set("factor", c, a)
        self._set("residual", c, self._sum(square, self.row) * self._norm2(c))

    def _leave(self) -> None:
        """Members whose damage exceeds the tolerance become singles; their groups are formed again without them."""
        with T.serial(0, self._length("members")) as i:
            c = emit.bind(self._get("members", i))
            leaves = emit.bind(self._get("residual", c) > self.threshold.get())
            self._append_if("singles", c, leaves)
            self._append_if("stayed", c, tirx.Not(leaves))
        with T.If(self._length("stayed") < self._length("members")), T.Then():
            with T.serial(0, self._length("slots")) as i:
                slot = emit.bind(self._get("slots", i))
                # The old size waits in "fill", to be compared with the new one.
                self._set("fill", slot, self._get("size", slot))
                self._set("size", slot, T.int32(0))
            with T.serial(0, self._length("stayed")) as i:
                c = emit.bind(self._get("stayed", i))
                slot = emit.bind(self._get("slot", c))
                held = emit.bind(self._get("size", slot))
                self._set("first", slot, tirx.Select(held == 0, c, self._get("first", slot)))
                self._set("size", slot, self._get("size", slot) + 1)
            self._renew_members()
            self._merge()

    def _renew_members(self) -> None:
        """The members that are left, each with the slot of its group's first; changed groups are marked."""
        for name in ("members", "slots"):
            self.lengths[name].set(T.int32(0))
        with T.serial(0, self._length("stayed")) as i:
            c = emit.bind(self._get("stayed", i))
            old = emit.bind(self._get("slot", c))
            together = emit.bind(self._get("size", old) >= 2)
            first = emit.bind(self._get("first", old))
            self._append_if("members", c, together)
            self._append_if("singles", c, tirx.Not(together))
            self._append_if("slots", c, tirx.all(together, first == c))
        # Slots change hands only now, when nothing looks up a group by its old slot any more.
        with T.serial(0, self._length("slots")) as i:
            c = emit.bind(self._get("slots", i))
            self._set(
                "changed",
                c,
                tirx.Cast("int32", self._get("size", self._get("slot", c)) < self._get("fill", self._get("slot", c))),
            )
            self._set("kept", i, self._get("size", self._get("slot", c)))
        with T.serial(0, self._length("members")) as i:
            c = emit.bind(self._get("members", i))
            self._set("slot", c, self._get("first", self._get("slot", c)))
        with T.serial(0, self._length("slots")) as i:
            self._set("size", self._get("slots", i), self._get("kept", i))

    def _write_singles(self) -> None:
        """Windows of the channels that are alone."""
        with T.serial(0, self._length("singles")) as i:
            c = emit.bind(self._get("singles", i))
            T.buffer_store(self.order, c, [self.list + i])
            source, target = emit.bind(c * self.row), emit.bind(self.window + c * self.row)

            def copy(i: Expr, n: int, source: Expr = source, target: Expr = target) -> None:
                emit.store(self.windows, target + i, emit.load(self.floats["own"], source + i, n), n)

            emit.sweep(self.row, self.lanes, copy)

    def _write_members(self) -> None:
        """Members group by group, with their coefficients; where each group starts."""
        starts = emit.bind(self.task * (self.channels // 2 + 2))
        position = emit.Register(1, dtype="int32")
        position.set(self._length("singles"))
        with T.serial(0, self._length("slots")) as i:
            slot = emit.bind(self._get("slots", i))
            T.buffer_store(self.starts, position.get(), [starts + i])
            self._set("fill", slot, position.get())
            position.set(position.get() + self._get("size", slot))
        T.buffer_store(self.starts, position.get(), [starts + self._length("slots")])
        self.damage.set(T.float32(0))
        with T.serial(0, self._length("members")) as i:
            c = emit.bind(self._get("members", i))
            slot = emit.bind(self._get("slot", c))
            at = emit.bind(self.list + self._get("fill", slot))
            T.buffer_store(self.order, c, [at])
            T.buffer_store(self.coeff, self._get("factor", c), [at])
            self.damage.set(self.damage.get() + tirx.sqrt(self._get("residual", c)))
            self._set("fill", slot, self._get("fill", slot) + 1)

    def _write_dropped(self) -> None:
        """Flat channels with their means, zeros, counts, the bound, and the mask where means meet a border."""
        kept = emit.bind(self.list + self._length("singles") + self._length("members"))
        with T.serial(0, self._length("flats")) as i:
            c = emit.bind(self._get("flats", i))
            total = emit.bind(self._get("sums", c))
            T.buffer_store(self.order, c, [kept + i])
            T.buffer_store(self.coeff, total * self.inverse, [kept + i])
            rest = T.max(self._get("squares", c) - total * total * self.inverse, T.float32(0)) * self._norm2(c)
            self.damage.set(self.damage.get() + tirx.sqrt(rest))
        with T.serial(0, self._length("zeros")) as i:
            T.buffer_store(self.order, self._get("zeros", i), [kept + self._length("flats") + i])
        with T.If(tirx.all(self._length("flats") > 0, self.on_border)), T.Then():
            self._write_mask()
        for i, name in enumerate(("singles", "slots", "members", "zeros", "flats")):
            T.buffer_store(self.counts, self._length(name), [self.task * len(COUNTS) + i])
        T.buffer_store(self.bound, self.damage.get(), [self.task])

    def _write_mask(self) -> None:
        """The window of the carried means: one on the image, zero in the padding."""
        start = emit.bind(self.window + self.channels * self.row)
        emit.sweep(self.row, self.lanes, lambda i, n: emit.store(self.windows, start + i, emit.splat(0.0, n), n))
        with T.serial(0, self.rows) as r, T.serial(0, self.columns) as column:
            at = start + (r + self.row0) * self.geometry.window[1] + column + self.column0
            T.buffer_store(self.windows, T.float32(1), [at])
