"""The first half of a HASTE convolution: read each patch's window, hash its channels, group and merge them.

One task is one patch of one conv group. The window is kept twice: channel-last, where hashing and norms run with
channels in the lanes and cost little, and channel-first in the output, where merging and the convolution read it.
What the second half needs is a list of channels in the order: singles, members of groups, flat ones, zeros.
"""

from __future__ import annotations

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

_KEPT, _ZERO, _FLAT, _LEFT = 0, 1, 2, 3


@dataclass(frozen=True)
class GroupLayout:
    """Shapes of what grouping hands to the convolution, for ``batch`` images.

    Attributes:
        windows: (patches, conv groups, C/groups + 1, window pixels padded to whole vectors); the last row is the mask of
            pixels on the image, written where flat channels need it.
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
        _Group(geometry, batch, lanes, merge, skip, buffers).emit()

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

    def emit(self) -> None:
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
            self._hash()
            self._classify()
            self._group()
            self._coefficients(only_changed=False)
            self._leave()
            self._lists()

    def _allocate(self) -> None:
        """Scratch memory of one patch."""
        size = self.channels
        self.table_size = 1 << max(1, (2 * size - 1).bit_length())
        self.last = T.alloc_buffer((self.pixels * size,), "float32")
        self.sums = T.alloc_buffer((size,), "float32")
        self.squares = T.alloc_buffer((size,), "float32")
        self.dots = T.alloc_buffer((size,), "float32")
        self.codes = T.alloc_buffer((size,), "int32")
        self.kind = T.alloc_buffer((size,), "int32")
        self.group_of = T.alloc_buffer((size,), "int32")
        self.factor = T.alloc_buffer((size,), "float32")
        self.residual = T.alloc_buffer((size,), "float32")
        self.table = T.alloc_buffer((self.table_size,), "int32")
        most = size // 2 + 1
        self.merged = T.alloc_buffer((most * self.row,), "float32")
        self.group_size = T.alloc_buffer((size,), "int32")
        self.group_energy = T.alloc_buffer((most,), "float32")
        self.group_changed = T.alloc_buffer((most,), "int32")
        self.group_fill = T.alloc_buffer((most,), "int32")
        self.slot = T.alloc_buffer((size,), "int32")
        self.groups = emit.Register(1, T.int32(0), "int32")
        self.threshold = emit.Register(1, 0.0)

    def _read_window(self, image: Expr, patch_row: Expr, patch_column: Expr) -> None:
        """Copy the window channel-last and channel-first; sums and squared norms of every channel on the way."""
        geometry, size = self.geometry, self.channels
        (height, width), (qh, qw) = geometry.input_size, geometry.window
        top, _, left, _ = geometry.padding
        (sh, sw), (out_h, out_w) = geometry.stride, geometry.output_size
        patch_h, patch_w = geometry.effective_patch
        rows = emit.bind(T.min(patch_h, out_h - patch_row * patch_h))
        columns = emit.bind(T.min(patch_w, out_w - patch_column * patch_w))
        self.origin_y = emit.bind(patch_row * patch_h * sh - top)
        self.origin_x = emit.bind(patch_column * patch_w * sw - left)
        reach_h, reach_w = (geometry.kernel[0] - 1) * geometry.dilation[0], (geometry.kernel[1] - 1) * geometry.dilation[1]
        self.row0 = emit.bind(T.max(0, -self.origin_y))
        self.row1 = emit.bind(T.min((rows - 1) * sh + reach_h + 1, height - self.origin_y))
        self.column0 = emit.bind(T.max(0, -self.origin_x))
        self.column1 = emit.bind(T.min((columns - 1) * sw + reach_w + 1, width - self.origin_x))
        self.on_image = emit.bind(T.max(0, self.row1 - self.row0) * T.max(0, self.column1 - self.column0))
        # A window with padding, or an edge patch's, is zero where nothing is read.
        self.on_border = emit.bind(reads_padding(geometry, self.origin_y, self.origin_x, rows, columns))
        with T.If(self.on_image < self.pixels), T.Then():
            emit.sweep(self.pixels * size, self.lanes, lambda i, n: emit.store(self.last, i, emit.splat(0.0, n), n))
            with T.serial(0, size) as c:
                start = emit.bind(self.window + c * self.row)
                emit.sweep(self.row, self.lanes, lambda i, n: emit.store(self.windows, start + i, emit.splat(0.0, n), n))
        if self.row != self.pixels:
            with T.serial(0, size) as c:
                tail = self.window + (c + 1) * self.row - self.lanes
                emit.store(self.windows, tail, emit.splat(0.0, self.lanes), self.lanes)

        def read(channel: Expr, n: int) -> None:
            total, square = emit.Register(n, 0.0), emit.Register(n, 0.0)
            with T.serial(0, T.max(0, self.row1 - self.row0)) as r:
                row = emit.bind(r + self.row0)
                source_row = emit.bind(((image * height + self.origin_y + row) * width + self.origin_x) * geometry.in_channels)
                with T.serial(0, T.max(0, self.column1 - self.column0)) as column_step:
                    column = emit.bind(column_step + self.column0)
                    pixel = emit.bind(row * qw + column)
                    source = source_row + column * geometry.in_channels + self.first_channel + channel
                    value = T.bind(emit.load(self.x, source, n))
                    emit.store(self.last, pixel * size + channel, value, n)
                    emit.store(self.windows, self.window + channel * self.row + pixel, value, n, stride=self.row)
                    total.add(value)
                    square.add(value * value)
            emit.store(self.sums, channel, total.get(), n)
            emit.store(self.squares, channel, square.get(), n)

        emit.sweep(size, self.lanes, read)
        assert qh * qw == self.pixels

    def _hash(self) -> None:
        """bit_l = <P_c, v_l> above its mean over the channels: the same as hashing P_c minus the mean window."""
        size, lanes = self.channels, self.lanes
        emit.sweep(size, lanes, lambda c, n: emit.store(self.codes, c, emit.splat(T.int32(0), n), n))
        wide = 4 * lanes
        with T.serial(0, tirx.Cast("int32", self.settings[0])) as plane:
            base = emit.bind(plane * (2 + self.pixels))
            plus = emit.bind(self.planes[base])
            minus = emit.bind(self.planes[base + 1])
            if size >= wide:
                with T.serial(0, size // wide) as block:
                    self._dots([(block * wide + v * lanes, lanes) for v in range(4)], base, plus, minus)
            rest = [(size // wide * wide + start, n) for start, n in emit.chunks(size % wide, lanes)]
            if rest:
                self._dots(rest, base, plus, minus)
            mean = emit.bind(self._sum(lambda c, n: emit.load(self.dots, c, n)) * T.float32(1.0 / size))
            bit = emit.bind(T.int32(1) << plane)

            def set_bit(c: Expr, n: int, mean: Expr = mean, bit: Expr = bit) -> None:
                above = emit.load(self.dots, c, n) > emit.splat(mean, n)
                code = tirx.Select(above, emit.splat(bit, n), emit.splat(T.int32(0), n))
                emit.store(self.codes, c, emit.load(self.codes, c, n) + code, n)

            emit.sweep(size, lanes, set_bit)

    def _dots(self, pieces: list[tuple[Expr, int]], base: Expr, plus: Expr, minus: Expr) -> None:
        sums = [emit.Register(n, 0.0) for _, n in pieces]
        with T.serial(0, plus) as i:
            pixel = emit.bind(self.planes[base + 2 + i] * self.channels)
            for register, (channel, n) in zip(sums, pieces, strict=True):
                register.add(emit.load(self.last, pixel + channel, n))
        with T.serial(0, minus) as i:
            pixel = emit.bind(self.planes[base + 2 + plus + i] * self.channels)
            for register, (channel, n) in zip(sums, pieces, strict=True):
                register.set(register.get() - emit.load(self.last, pixel + channel, n))
        for register, (channel, n) in zip(sums, pieces, strict=True):
            emit.store(self.dots, channel, register.get(), n)

    def _sum(self, value: object, size: int | None = None) -> Expr:
        """Sum of ``value(start, lanes)`` over ``size`` elements (default: the channels)."""
        size = self.channels if size is None else size
        whole, rest = size // self.lanes, emit.chunks(size % self.lanes, self.lanes)
        total = emit.Register(1, 0.0)
        if whole:
            wide = emit.Register(self.lanes, 0.0)
            with T.serial(0, whole) as i:
                wide.add(value(i * self.lanes, self.lanes))  # type: ignore[operator]
            total.set(wide.total())
        for start, n in rest:
            part = emit.Register(n, value(whole * self.lanes + start, n))  # type: ignore[operator]
            total.set(total.get() + part.total())
        return total.get()

    def _norm2(self, c: Expr, n: int) -> Expr:
        return emit.load(self.filter_norm2, self.first_channel + c, n)

    def _classify(self) -> None:
        """Which channels are zero or flat; a patch that isn't finite keeps every channel to itself."""
        size, lanes = self.channels, self.lanes
        weighted = emit.bind(self._sum(lambda c, n: emit.load(self.squares, c, n) * self._norm2(c, n)))
        mean_square = emit.bind(weighted * T.float32(1.0 / size))
        energy = emit.bind(self._sum(lambda c, n: emit.load(self.squares, c, n)))
        # Comparisons that NaN fails; energy - energy == 0 would be simplified to true.
        largest = T.float32(np.finfo(np.float32).max)
        self.finite = emit.bind(tirx.all(energy <= T.float32(LARGEST_ENERGY), weighted <= largest))
        tolerance, flat = self.settings[1], self.settings[2]
        self.threshold.set(tolerance * tolerance * mean_square)
        flat_threshold = emit.bind(flat * flat * mean_square)
        inverse = emit.bind(T.float32(1) / tirx.Cast("float32", T.max(self.on_image, 1)))

        def classify(c: Expr, n: int) -> None:
            zero_kind, kept = emit.splat(T.int32(_ZERO), n), emit.splat(T.int32(_KEPT), n)
            if self.skip == "none":
                emit.store(self.kind, c, kept, n)
                return
            square = T.bind(emit.load(self.squares, c, n))
            kind = kept
            if self.skip == "flat":
                total = T.bind(emit.load(self.sums, c, n))
                rest = square - total * total * emit.splat(inverse, n)
                is_flat = rest * self._norm2(c, n) <= emit.splat(flat_threshold, n)
                kind = tirx.Select(is_flat, emit.splat(T.int32(_FLAT), n), kept)
            emit.store(self.kind, c, tirx.Select(square == emit.splat(0.0, n), zero_kind, kind), n)

        emit.sweep(size, lanes, classify)
        with T.If(tirx.Not(self.finite)), T.Then():
            emit.sweep(size, lanes, lambda c, n: emit.store(self.kind, c, emit.splat(T.int32(_LEFT), n), n))

    def _group(self) -> None:
        """Channels of equal code share a slot, the first of them; groups of two or more are summed."""
        size, lanes = self.channels, self.lanes
        emit.sweep(self.table_size, lanes, lambda i, n: emit.store(self.table, i, emit.splat(T.int32(-1), n), n))
        with T.serial(0, size) as c:
            T.buffer_store(self.group_size, T.int32(0), [c])
            T.buffer_store(self.slot, c, [c])
            with T.If(self.kind[c] == _KEPT), T.Then():
                code = emit.bind(self.codes[c])
                # Folded by xor: TVM promises LLVM that a product never overflows, so no multiplicative hash.
                mixed = code ^ (code >> 7) ^ (code >> 15) ^ (code >> 22)
                place = emit.Register(1, mixed & (self.table_size - 1), "int32")
                found = emit.Register(1, T.int32(0), "int32")
                with T.While(found.get() == 0):
                    holder = emit.bind(self.table[place.get()])
                    with T.If(holder < 0):
                        with T.Then():
                            T.buffer_store(self.table, c, [place.get()])
                            found.set(T.int32(1))
                        with T.Else(), T.If(self.codes[T.max(holder, 0)] == code):
                            with T.Then():
                                T.buffer_store(self.slot, holder, [c])
                                found.set(T.int32(1))
                            with T.Else():
                                place.set((place.get() + 1) & (self.table_size - 1))
                slot = emit.bind(self.slot[c])
                T.buffer_store(self.group_size, self.group_size[slot] + 1, [slot])
        self.groups.set(T.int32(0))
        with T.serial(0, size) as c:
            T.buffer_store(self.group_of, T.int32(-1), [c])
            with T.If(self.kind[c] == _KEPT), T.Then():
                slot = emit.bind(self.slot[c])
                with T.If(self.group_size[slot] >= 2), T.Then():
                    with T.If(slot == c), T.Then():
                        T.buffer_store(self.group_of, self.groups.get(), [c])
                        T.buffer_store(self.group_changed, T.int32(0), [self.groups.get()])
                        self.groups.set(self.groups.get() + 1)
                    group = emit.bind(self.group_of[slot])
                    T.buffer_store(self.group_of, group, [c])
                    self._accumulate(c, group, first=slot == c)
        # From here on sizes are counted by group, not by slot.
        with T.serial(0, size) as c, T.If(tirx.all(self.group_of[c] >= 0, self.slot[c] == c)), T.Then():
            T.buffer_store(self.group_fill, self.group_size[c], [self.group_of[c]])
        with T.serial(0, self.groups.get()) as group:
            T.buffer_store(self.group_size, self.group_fill[group], [group])
        self._finish_sums(only_changed=False)

    def _accumulate(self, c: Expr, group: Expr, first: Expr) -> None:
        """Add channel ``c``'s window to its group's, or start the sum with it."""
        source, target = emit.bind(self.window + c * self.row), emit.bind(group * self.row)
        with T.If(first):
            with T.Then():
                emit.sweep(self.row, self.lanes, lambda i, n: emit.store(self.merged, target + i, emit.load(self.windows, source + i, n), n))
            with T.Else():
                emit.sweep(
                    self.row,
                    self.lanes,
                    lambda i, n: emit.store(
                        self.merged, target + i, emit.load(self.merged, target + i, n) + emit.load(self.windows, source + i, n), n
                    ),
                )

    def _finish_sums(self, only_changed: bool) -> None:
        """Divide by the size (mean), or take the squared norm (projection) of each group's sum."""
        with T.serial(0, self.groups.get()) as group:
            wanted = self.group_changed[group] > 0 if only_changed else T.bool(True)
            with T.If(wanted), T.Then():
                target = emit.bind(group * self.row)
                if self.merge == "mean":
                    scale = emit.bind(T.float32(1) / tirx.Cast("float32", T.max(self.group_size[group], 1)))
                    emit.sweep(
                        self.row,
                        self.lanes,
                        lambda i, n: emit.store(self.merged, target + i, emit.load(self.merged, target + i, n) * emit.splat(scale, n), n),
                    )
                else:
                    energy = self._sum(
                        lambda i, n: emit.load(self.merged, target + i, n) * emit.load(self.merged, target + i, n), self.row
                    )
                    T.buffer_store(self.group_energy, energy, [group])

    def _coefficients(self, only_changed: bool) -> None:
        """a_c and |P_c - a_c X_g|² of every member."""
        with T.serial(0, self.channels) as c:
            group = emit.bind(self.group_of[c])
            wanted = group >= 0
            if only_changed:
                wanted = tirx.all(wanted, self.group_changed[T.max(group, 0)] > 0)
            with T.If(wanted), T.Then():
                own, shared = emit.bind(self.window + c * self.row), emit.bind(group * self.row)
                factor = emit.Register(1, 1.0)
                if self.merge == "projection":
                    dot = emit.bind(
                        self._sum(lambda i, n: emit.load(self.windows, own + i, n) * emit.load(self.merged, shared + i, n), self.row)
                    )
                    energy = emit.bind(self.group_energy[group])
                    with T.If(energy > T.float32(0)):
                        with T.Then():
                            factor.set(dot / energy)
                        with T.Else():
                            factor.set(T.float32(0))
                a = emit.bind(factor.get())

                def square(i: Expr, n: int, own: Expr = own, shared: Expr = shared, a: Expr = a) -> Expr:
                    rest = T.bind(emit.load(self.windows, own + i, n) - emit.load(self.merged, shared + i, n) * emit.splat(a, n))
                    return rest * rest

                T.buffer_store(self.factor, a, [c])
                T.buffer_store(self.residual, self._sum(square, self.row) * self._norm2(c, 1), [c])

    def _leave(self) -> None:
        """Members whose damage exceeds the tolerance become singles; their groups are formed again without them."""
        left = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, self.channels) as c:
            group = emit.bind(self.group_of[c])
            with T.If(group >= 0), T.Then(), T.If(self.residual[c] > self.threshold.get()), T.Then():
                # TVM may read `group` again where it is used, so the store to group_of comes last.
                T.buffer_store(self.group_changed, T.int32(1), [group])
                T.buffer_store(self.kind, T.int32(_LEFT), [c])
                T.buffer_store(self.group_of, T.int32(-1), [c])
                left.set(left.get() + 1)
        with T.If(left.get() > 0), T.Then():
            with T.serial(0, self.groups.get()) as group, T.If(self.group_changed[group] > 0), T.Then():
                T.buffer_store(self.group_size, T.int32(0), [group])
            with T.serial(0, self.channels) as c:
                group = emit.bind(self.group_of[c])
                with T.If(group >= 0), T.Then(), T.If(self.group_changed[group] > 0), T.Then():
                    self._accumulate(c, group, first=self.group_size[group] == 0)
                    T.buffer_store(self.group_size, self.group_size[group] + 1, [group])
            with T.serial(0, self.channels) as c:
                group = emit.bind(self.group_of[c])
                with T.If(group >= 0), T.Then(), T.If(self.group_size[group] == 1), T.Then():
                    T.buffer_store(self.group_of, T.int32(-1), [c])
            self._finish_sums(only_changed=True)
            self._coefficients(only_changed=True)

    def _lists(self) -> None:
        """Write order, coefficients, group starts, counts and the bound; put X_g in its first member's window."""
        size = self.channels
        singles, members = emit.Register(1, T.int32(0), "int32"), emit.Register(1, T.int32(0), "int32")
        zeros, flats = emit.Register(1, T.int32(0), "int32"), emit.Register(1, T.int32(0), "int32")
        damage = emit.Register(1, 0.0)
        for register in (singles, members, zeros, flats):
            register.set(T.int32(0))
        damage.set(T.float32(0))
        with T.serial(0, size) as c:
            kind = emit.bind(self.kind[c])
            with T.If(self.group_of[c] >= 0):
                with T.Then():
                    members.set(members.get() + 1)
                    damage.set(damage.get() + tirx.sqrt(self.residual[c]))
                with T.Else(), T.If(kind == _ZERO):
                    with T.Then():
                        zeros.set(zeros.get() + 1)
                    with T.Else(), T.If(kind == _FLAT):
                        with T.Then():
                            flats.set(flats.get() + 1)
                        with T.Else():
                            T.buffer_store(self.order, c, [self.list + singles.get()])
                            singles.set(singles.get() + 1)
        starts = emit.bind(self.task * (size // 2 + 2))
        position, kept_groups = emit.Register(1, T.int32(0), "int32"), emit.Register(1, T.int32(0), "int32")
        position.set(singles.get())
        kept_groups.set(T.int32(0))
        with T.serial(0, self.groups.get()) as group:
            with T.If(self.group_size[group] >= 2), T.Then():
                T.buffer_store(self.starts, position.get(), [starts + kept_groups.get()])
                T.buffer_store(self.group_fill, position.get(), [group])
                kept_groups.set(kept_groups.get() + 1)
                position.set(position.get() + self.group_size[group])
        T.buffer_store(self.starts, position.get(), [starts + kept_groups.get()])
        flat_at, zero_at = emit.Register(1, T.int32(0), "int32"), emit.Register(1, T.int32(0), "int32")
        flat_at.set(position.get())
        zero_at.set(position.get() + flats.get())
        inverse = emit.bind(T.float32(1) / tirx.Cast("float32", T.max(self.on_image, 1)))
        with T.serial(0, size) as c:
            group, kind = emit.bind(self.group_of[c]), emit.bind(self.kind[c])
            with T.If(group >= 0):
                with T.Then():
                    at = emit.bind(self.group_fill[group])
                    T.buffer_store(self.order, c, [self.list + at])
                    T.buffer_store(self.coeff, self.factor[c], [self.list + at])
                    T.buffer_store(self.group_fill, at + 1, [group])
                with T.Else(), T.If(kind == _FLAT):
                    with T.Then():
                        total = emit.bind(self.sums[c])
                        T.buffer_store(self.order, c, [self.list + flat_at.get()])
                        T.buffer_store(self.coeff, total * inverse, [self.list + flat_at.get()])
                        flat_at.set(flat_at.get() + 1)
                        rest = T.max(self.squares[c] - total * total * inverse, T.float32(0)) * self._norm2(c, 1)
                        damage.set(damage.get() + tirx.sqrt(rest))
                    with T.Else(), T.If(kind == _ZERO), T.Then():
                        T.buffer_store(self.order, c, [self.list + zero_at.get()])
                        zero_at.set(zero_at.get() + 1)
        self._place_merged()
        with T.If(tirx.all(flats.get() > 0, self.on_border)), T.Then():
            self._write_mask()
        for i, register in enumerate((singles, kept_groups, members, zeros, flats)):
            T.buffer_store(self.counts, register.get(), [self.task * len(COUNTS) + i])
        T.buffer_store(self.bound, damage.get(), [self.task])

    def _place_merged(self) -> None:
        """Copy X_g over the window of its first member, which nothing reads any more."""
        with T.serial(0, self.channels) as c:
            group = emit.bind(self.group_of[c])
            with T.If(group >= 0), T.Then(), T.If(self.group_size[group] >= 2), T.Then():
                target, source = emit.bind(self.window + c * self.row), emit.bind(group * self.row)
                emit.sweep(self.row, self.lanes, lambda i, n: emit.store(self.windows, target + i, emit.load(self.merged, source + i, n), n))
                # Done with this group: its other members' windows stay as they are.
                T.buffer_store(self.group_size, T.int32(0), [group])

    def _write_mask(self) -> None:
        """The window of the carried means: one on the image, zero in the padding."""
        start = emit.bind(self.window + self.channels * self.row)
        emit.sweep(self.row, self.lanes, lambda i, n: emit.store(self.windows, start + i, emit.splat(0.0, n), n))
        with T.serial(0, T.max(0, self.row1 - self.row0)) as r, T.serial(0, T.max(0, self.column1 - self.column0)) as column:
            at = start + (r + self.row0) * self.geometry.window[1] + column + self.column0
            T.buffer_store(self.windows, T.float32(1), [at])
