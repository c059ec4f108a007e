"""The first half of a HASTE convolution: read each patch's window, hash its channels, group and merge them.

One task is one patch of one conv group. The window is read channel-last, where hashing and norms run with channels in
the lanes and cost little, then written out transposed, because merging and the convolution want each channel's
pixels together. Behind the channels' windows lie the groups' sums; a list names the channels in the order members of
groups, singles, flat ones, zeros. Channels are sorted into lists without branches: what becomes of a channel can't be
predicted, and a mispredicted branch costs more than the work it saves.

With a gate, a few patches all over the images go first. Where what they found doesn't pay, the others are left alone
and the second half computes the plain convolution: on such images the layer costs little more than if it were dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch, DynamicBatch, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.sampling import Sampling, sampling
from haste_compiler.methods.haste.reference.grouping import LARGEST_ENERGY

COUNTS = ("singles", "groups", "members", "zeros", "flats", "merges")
"""What the counts of a patch hold, in order; see ``haste.count_channels``."""

_VECTORS_AT_ONCE = 8

_KEPT, _ZERO, _FLAT, _ALONE = 0, 1, 2, 3


@dataclass(frozen=True)
class GroupLayout:
    """Shapes of what grouping hands to the convolution; if the batch is dynamic, patches are (batch, of an image).

    Attributes:
        windows: (patches, conv groups, rows, window pixels padded to whole vectors): C/groups channels, room for
            C/groups // 2 sums of groups, and the mask of pixels on the image, written where flat channels need it.
        order: (patches, conv groups, C/groups) int32, channels in the order members, singles, flats, zeros.
        coeff: the same shape, float32: a_c of members, d_c of flats.
        starts: (patches, conv groups, C/groups // 2 + 1) int32, where each group's members start in ``order``; after
            the last group, where they end.
        rows: the same shape, the row of ``windows`` that holds each group's sum; after the last group, the mask's.
        counts: (patches, conv groups, 6) int32, see ``COUNTS``.
        bound: (patches, conv groups) float32, sum of |F_c| · |P_c - P̂_c|.
    """

    windows: tuple[Any, ...]
    order: tuple[Any, ...]
    coeff: tuple[Any, ...]
    starts: tuple[Any, ...]
    rows: tuple[Any, ...]
    counts: tuple[Any, ...]
    bound: tuple[Any, ...]

    def tensors(self) -> list[tuple[str, tuple[Any, ...], str]]:
        """(name, shape, dtype) in the kernels' argument order."""
        return [
            ("windows", self.windows, "float32"),
            ("order", self.order, "int32"),
            ("coeff", self.coeff, "float32"),
            ("starts", self.starts, "int32"),
            ("rows", self.rows, "int32"),
            ("counts", self.counts, "int32"),
            ("bound", self.bound, "float32"),
        ]


def window_rows(channels: int) -> int:
    """Rows of one patch's windows: channels, sums of groups, the mask."""
    return channels + channels // 2 + 1


def row_floats(geometry: ConvGeometry, lanes: int) -> int:
    """Floats of one channel's window, padded to whole vectors."""
    return -(-geometry.window_pixels // lanes) * lanes


def group_layout(geometry: ConvGeometry, batch: Batch, lanes: int) -> GroupLayout:
    """The shapes for one layer."""
    of_image = geometry.patch_grid[0] * geometry.patch_grid[1]
    patches = (batch, of_image) if isinstance(batch, DynamicBatch) else (batch * of_image,)
    groups, channels = geometry.groups, geometry.in_channels // geometry.groups
    return GroupLayout(
        windows=(*patches, groups, window_rows(channels), row_floats(geometry, lanes)),
        order=(*patches, groups, channels),
        coeff=(*patches, groups, channels),
        starts=(*patches, groups, channels // 2 + 1),
        rows=(*patches, groups, channels // 2 + 1),
        counts=(*patches, groups, len(COUNTS)),
        bound=(*patches, groups),
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
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    lanes: int,
    *,
    merge: str,
    skip: str,
    planes: int,
    gated: bool = False,
) -> tirx.PrimFunc:
    """The kernel (x NHWC, hyperplane table, |F_c|² (C,), settings (3,), then the tensors of ``GroupLayout``).

    ``gated``: also takes ``gate`` (1 + counts,) after the settings, what a patch may cost at most and what each unit of
    its counts costs, and writes ``chosen`` (1,) last: 1, or 0 where the samples cost more and the plain convolution is
    to be computed. The counts then say that every channel is alone, and the merges done are those of the samples.
    """
    height, width = geometry.input_size
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        ("x", (batch, height, width, geometry.in_channels), "float32"),
        ("planes", (planes, 2 + geometry.window_pixels), "int32"),
        ("filter_norm2", (geometry.in_channels,), "float32"),
        ("settings", (3,), "float32"),
        *([("gate", (1 + len(COUNTS),), "float32")] if gated else []),
        *group_layout(geometry, batch, lanes).tensors(),
        *([("chosen", (1,), "int32")] if gated else []),
    ]

    def body(*buffers: Expr) -> None:
        if gated:
            *inputs, gate = buffers[:5]
            *outputs, chosen = buffers[5:]
            _Group(geometry, batch, lanes, merge, skip, (*inputs, *outputs)).write_gated(gate, chosen)
        else:
            _Group(geometry, batch, lanes, merge, skip, buffers).write()

    return emit.kernel(name, arguments, body)


def _as_float(value: Expr) -> Expr:
    return value if isinstance(value, int) else tirx.Cast("float32", value)


class _Group:
    """Emits the kernel; the methods are the steps of one patch, in order."""

    def __init__(
        self, geometry: ConvGeometry, batch: Batch, lanes: int, merge: str, skip: str, buffers: tuple[Expr, ...]
    ) -> None:
        self.geometry, self.lanes, self.merge, self.skip = geometry, lanes, merge, skip
        self.images = emit.bind(images_of(batch))
        (self.x, self.planes, self.filter_norm2, self.settings) = buffers[:4]
        (self.windows, self.order, self.coeff, self.starts, self.rows_of, self.counts, self.bound) = buffers[4:]
        self.channels = geometry.in_channels // geometry.groups
        self.row = row_floats(geometry, lanes)
        self.pixels = geometry.window_pixels

    def write(self) -> None:
        """All patches, in parallel."""
        with T.parallel(0, sampling(self.geometry, self.images).tasks) as task:
            self._patch(task)

    def write_gated(self, gate: Expr, chosen: Expr) -> None:
        """First the samples, then the other patches if it pays."""
        sampled = sampling(self.geometry, self.images)
        # One body for both sweeps: it is most of the kernel's code.
        with T.serial(0, 2) as sweep:
            with T.If(sweep == 1), T.Then():
                self._choose(sampled, gate, chosen)
            with T.parallel(0, sampled.tasks) as task:
                first = sampled.is_sample(task)
                later = tirx.all(sweep == 1, tirx.Not(first), chosen[0] == 1)
                with T.If(tirx.any(tirx.all(sweep == 0, first), later)), T.Then():
                    self._patch(task)
        with T.If(chosen[0] == 0), T.Then(), T.serial(0, sampled.tasks) as task:
            counts = {name: task * len(COUNTS) + i for i, name in enumerate(COUNTS)}
            # What merging in a sample cost was spent.
            with T.If(tirx.Not(sampled.is_sample(task))), T.Then():
                T.buffer_store(self.counts, T.int32(0), [counts.pop("merges")])
            T.buffer_store(self.counts, T.int32(self.channels), [counts.pop("singles")])
            for place in counts.values():
                T.buffer_store(self.counts, T.int32(0), [place])
            T.buffer_store(self.bound, T.float32(0), [task])

    def _choose(self, sampled: Sampling, gate: Expr, chosen: Expr) -> None:
        """Whether the samples cost no more than the plain convolution of as many patches."""
        cost = emit.Register(1, 0.0)
        with T.serial(0, sampled.samples) as i:
            entry = emit.bind((i * sampled.step + sampled.step // 2) * len(COUNTS))
            for k in range(len(COUNTS)):
                cost.add(gate[1 + k] * tirx.Cast("float32", self.counts[entry + k]))
        T.buffer_store(chosen, tirx.Cast("int32", cost.get() <= gate[0] * _as_float(sampled.samples)), [0])

    def _patch(self, task: Expr) -> None:
        """One patch of one conv group."""
        grid_h, grid_w = self.geometry.patch_grid
        groups = self.geometry.groups
        patch, group = emit.bind(task // groups), emit.bind(task % groups)
        image, place = emit.bind(patch // (grid_h * grid_w)), emit.bind(patch % (grid_h * grid_w))
        self._allocate()
        self.task, self.first_channel = task, emit.bind(group * self.channels)
        self.window = emit.bind(task * window_rows(self.channels) * self.row)
        self.list = emit.bind(task * self.channels)
        self.group_list = emit.bind(task * (self.channels // 2 + 1))
        self._read_window(image, emit.bind(place // grid_w), emit.bind(place % grid_w))
        self._hash()
        self._classify()
        self._sort_by_kind()
        self._form_groups()
        self._sort_members()
        self._merge_groups()
        self._write_singles()
        self._write_dropped()

    def _allocate(self) -> None:
        """Scratch memory of one patch."""
        size = self.channels
        self.table_size = 1 << max(1, (2 * size - 1).bit_length())
        floats = {name: size for name in ("sums", "squares", "dots", "factor", "residual")}
        floats["last"] = self.row * size
        integers = {name: size for name in ("codes", "kind", "slot", "size", "fill", "sorted")}
        integers |= {name: size for name in ("kept", "singles", "members", "slots", "flats", "zeros")}
        integers["table"] = self.table_size
        self.floats = {name: T.alloc_buffer((length,), "float32") for name, length in floats.items()}
        self.integers = {name: T.alloc_buffer((length,), "int32") for name, length in integers.items()}
        self.lengths = {
            name: emit.Register(1, T.int32(0), "int32")
            for name in ("kept", "singles", "members", "slots", "flats", "zeros")
        }
        self.threshold, self.damage = emit.Register(1, 0.0), emit.Register(1, 0.0)
        self.groups, self.placed, self.merges = (emit.Register(1, T.int32(0), "int32") for _ in range(3))

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
        """Copy the window, zeros where nothing is read; sums and squared norms of every channel.

        A vector of channels at a time: its pixels lie together, channel-last, and are in the first-level cache when
        they are transposed.
        """
        geometry, last = self.geometry, self.floats["last"]
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

        def read(channel: Expr, n: int) -> None:
            total, square = emit.Register(n, 0.0), emit.Register(n, 0.0)
            block = emit.bind(channel * self.row)
            with T.If(self.on_image < self.pixels), T.Then():
                zero(block, self.pixels * n)
            zero(block + self.pixels * n, (self.row - self.pixels) * n)
            with T.serial(0, self.rows) as r:
                row = emit.bind(r + self.row0)
                start = ((image * height + origin_y + row) * width + origin_x + self.column0) * geometry.in_channels
                source = emit.bind(start + self.first_channel + channel)
                target = emit.bind(block + (row * qw + self.column0) * n)
                with T.serial(0, self.columns) as column:
                    value = T.bind(emit.load(self.x, source + column * geometry.in_channels, n))
                    emit.store(last, target + column * n, value, n)
                    total.add(value)
                    square.add(value * value)
            emit.store(self.floats["sums"], channel, total.get(), n)
            emit.store(self.floats["squares"], channel, square.get(), n)
            self._transpose(channel, block, n)

        emit.sweep(self.channels, self.lanes, read)

    def _transpose(self, channel: Expr, block: Expr, n: int) -> None:
        """The windows of ``n`` channels channel-first, a square of vectors at a time."""
        lanes, last = self.lanes, self.floats["last"]
        with T.serial(0, self.row // lanes) as step:
            pixel = emit.bind(step * lanes)
            rows = [T.bind(emit.load(last, block + (pixel + p) * n, n)) for p in range(lanes)]
            if n == lanes:
                for c, values in enumerate(emit.transposed(rows)):
                    emit.store(self.windows, self._own(channel + c) + pixel, values, lanes)
            else:
                for p, values in enumerate(rows):
                    emit.store(self.windows, self._own(channel) + pixel + p, values, n, stride=self.row)

    def _own(self, channel: Expr) -> Expr:
        """Where a channel's window starts."""
        return self.window + channel * self.row

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
                pixel = emit.bind(self.planes[first + i])
                for register, (channel, n) in zip(sums, pieces, strict=True):
                    value = emit.load(self.floats["last"], channel * self.row + pixel * n, n)
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
        largest = T.float32(emit.LARGEST)
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

    def _sort_members(self) -> None:
        """The members group by group: a counting sort that keeps the channels of a group in order."""
        begin = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, self._length("slots")) as i:
            slot = emit.bind(self._get("slots", i))
            self._set("fill", slot, begin.get())
            begin.set(begin.get() + self._get("size", slot))
        with T.serial(0, self._length("members")) as i:
            c = emit.bind(self._get("members", i))
            slot = emit.bind(self._get("slot", c))
            self._set("sorted", self._get("fill", slot), c)
            self._set("fill", slot, self._get("fill", slot) + 1)

    def _merge_groups(self) -> None:
        """X_g, a_c and the residuals of every group; members whose damage exceeds the tolerance leave it."""
        for register in (self.groups, self.placed):
            register.set(T.int32(0))
        self.damage.set(T.float32(0))
        self.merges.set(self._length("members"))
        with T.serial(0, self._length("slots")) as g:
            slot = emit.bind(self._get("slots", g))
            size = emit.bind(self._get("size", slot))
            begin = emit.bind(self._get("fill", slot) - size)
            row = emit.bind(self.channels + g)
            self._merge(begin, size, row)
            stayed = emit.Register(1, T.int32(0), "int32")
            with T.serial(0, size) as i:
                c = emit.bind(self._get("sorted", begin + i))
                leaves = emit.bind(self._get("residual", c) > self.threshold.get())
                self._set("sorted", begin + stayed.get(), c)
                stayed.set(stayed.get() + tirx.Cast("int32", tirx.Not(leaves)))
                self._append_if("singles", c, leaves)
            self._append_if("singles", self._get("sorted", begin), stayed.get() == 1)
            with T.If(stayed.get() >= 2), T.Then():
                with T.If(stayed.get() < size), T.Then():
                    self._merge(begin, stayed.get(), row)
                    self.merges.set(self.merges.get() + stayed.get())
                self._write_group(begin, stayed.get(), row)
        self._write_end(self.channels + self.channels // 2)

    def _merge(self, begin: Expr, count: Expr, row: Expr) -> None:
        """X_g of the members ``sorted[begin : begin + count]`` into a row of the windows; a_c and residual of each."""
        target = emit.bind(self._own(row))
        scale = 1 / tirx.Cast("float32", T.max(count, 1)) if self.merge == "mean" else None
        scale = None if scale is None else emit.bind(scale)
        energy = emit.Register(self.lanes, 0.0)
        vectors = self.row // self.lanes
        at_once = next(n for n in range(min(vectors, _VECTORS_AT_ONCE), 0, -1) if vectors % n == 0)
        with T.serial(0, vectors // at_once) as part:
            start = emit.bind(part * at_once * self.lanes)
            sums = [emit.Register(self.lanes, 0.0) for _ in range(at_once)]
            with T.serial(0, count) as i:
                source = emit.bind(self._own(self._get("sorted", begin + i)) + start)
                for v, register in enumerate(sums):
                    register.add(emit.load(self.windows, source + v * self.lanes, self.lanes))
            for v, register in enumerate(sums):
                if scale is not None:
                    register.set(register.get() * emit.splat(scale, self.lanes))
                energy.add(register.get() * register.get())
                emit.store(self.windows, target + start + v * self.lanes, register.get(), self.lanes)
        square = emit.Register(1)
        square.set(energy.total())
        with T.serial(0, count) as i:
            self._coefficient(emit.bind(self._get("sorted", begin + i)), target, square.get())

    def _coefficient(self, c: Expr, shared: Expr, energy: Expr) -> None:
        """a_c and (|P_c - a_c X_g| |F_c|)² of one member."""
        own = emit.bind(self._own(c))
        factor = T.float32(1)
        if self.merge == "projection":

            def product(i: Expr, n: int) -> Expr:
                return emit.load(self.windows, own + i, n) * emit.load(self.windows, shared + i, n)

            dot = emit.bind(self._sum(product, self.row))
            # The divisor is never zero, also in the lane that Select doesn't take.
            some = energy > T.float32(0)
            factor = tirx.Select(some, dot / tirx.Select(some, energy, T.float32(1)), T.float32(0))
        a = T.bind(factor)

        def square(i: Expr, n: int) -> Expr:
            rest = emit.load(self.windows, shared + i, n) * emit.splat(a, n)
            rest = T.bind(emit.load(self.windows, own + i, n) - rest)
            return rest * rest

        self._set("factor", c, a)
        self._set("residual", c, self._sum(square, self.row) * self._norm2(c))

    def _write_group(self, begin: Expr, count: Expr, row: Expr) -> None:
        """A group's members with their coefficients, where they start, and the row of their sum."""
        self._write_end(row)
        at = emit.bind(self.list + self.placed.get())
        with T.serial(0, count) as i:
            c = emit.bind(self._get("sorted", begin + i))
            T.buffer_store(self.order, c, [at + i])
            T.buffer_store(self.coeff, self._get("factor", c), [at + i])
            self.damage.set(self.damage.get() + tirx.sqrt(self._get("residual", c)))
        self.groups.set(self.groups.get() + 1)
        self.placed.set(self.placed.get() + count)

    def _write_end(self, row: Expr) -> None:
        """Where the next group's members start, and the row that it convolves."""
        T.buffer_store(self.starts, self.placed.get(), [self.group_list + self.groups.get()])
        T.buffer_store(self.rows_of, row, [self.group_list + self.groups.get()])

    def _write_singles(self) -> None:
        """The channels that are alone, after the members; their windows are used as they are."""
        with T.serial(0, self._length("singles")) as i:
            T.buffer_store(self.order, self._get("singles", i), [self.list + self.placed.get() + i])

    def _write_dropped(self) -> None:
        """Flat channels with their means, zeros, counts, the bound, and the mask where means meet a border."""
        kept = emit.bind(self.list + self._length("singles") + self.placed.get())
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
        lengths = {"groups": self.groups, "members": self.placed, "merges": self.merges}
        for i, name in enumerate(COUNTS):
            T.buffer_store(self.counts, (self.lengths | lengths)[name].get(), [self.task * len(COUNTS) + i])
        T.buffer_store(self.bound, self.damage.get(), [self.task])

    def _write_mask(self) -> None:
        """The window of the carried means: one on the image, zero in the padding."""
        start = emit.bind(self._own(self.channels + self.channels // 2))
        emit.sweep(self.row, self.lanes, lambda i, n: emit.store(self.windows, start + i, emit.splat(0.0, n), n))
        with T.serial(0, self.rows) as r, T.serial(0, self.columns) as column:
            at = start + (r + self.row0) * self.geometry.window[1] + column + self.column0
            T.buffer_store(self.windows, T.float32(1), [at])
