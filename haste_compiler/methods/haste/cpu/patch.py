"""What the steps of grouping share: the kernel's tensors, and one patch's place in them and its scratch memory."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.place import Place


@dataclass(frozen=True)
class GroupTensors:
    """The grouping kernel's tensors, flat, by the names of its arguments; the outputs' shapes are ``GroupLayout``'s.

    Attributes:
        x: the images, NHWC.
        planes: hyperplanes, see ``pack_hyperplanes``.
        filter_norm2: (C,), |F_c|².
        settings: (3,), see ``Settings.pack``.
        order, coeff, starts, rows, counts, bound: see ``GroupLayout``.
        windows: the same, or None if no patch's are kept.
    """

    x: Expr
    planes: Expr
    filter_norm2: Expr
    settings: Expr
    order: Expr
    coeff: Expr
    starts: Expr
    rows: Expr
    counts: Expr
    bound: Expr
    windows: Expr | None = None


class ChannelList:
    """A list of channels that grows without branches."""

    def __init__(self, memory: Expr, most: int) -> None:
        self._memory, self._most = memory, most
        self._end = emit.Register(1, T.int32(0), "int32")

    @property
    def length(self) -> Expr:
        """How many it holds."""
        return self._end.get()

    def __getitem__(self, index: Expr) -> Expr:
        return self._memory[index]

    def clear(self) -> None:
        """Empty it."""
        self._end.set(T.int32(0))

    def append_if(self, channel: Expr, condition: Expr) -> None:
        """Write past the list's end, and move the end only if the condition holds."""
        emit.store(self._memory, T.min(self._end.get(), self._most - 1), channel)
        self._end.set(self._end.get() + tirx.Cast("int32", condition))


class Scratch:
    """Scratch memory of one patch.

    Attributes:
        sums, squares: float32 (C/groups,): of each channel's pixels and of their squares.
        dots: float32 (C/groups,): each channel's product with the hyperplane at hand.
        factor, residual: float32 (C/groups,): a_c of members, and (|P_c - a_c X_g| · |F_c|)².
        last: float32: the window channel-last, a vector of channels after the other.
        codes, kind: int32 (C/groups,): hashes, and what becomes of each channel, see ``classify``.
        slot, size: int32 (C/groups,): the first channel of each channel's group; by slot, its members.
        fill: int32 (C/groups,): by slot, where its next member is written in ``sorted``.
        sorted: int32 (C/groups,): the members group by group.
        table: int32 (table_size,): slots by hashed code.
        kept, singles, members, slots, flats, zeros: lists of channels.
        threshold: the damage, squared, above which a member leaves its group.
        damage: the bound so far.
        groups, placed, merges: groups and members written so far; channels merged over both rounds.
    """

    def __init__(self, channels: int, row: int) -> None:
        self.table_size = 1 << max(1, (2 * channels - 1).bit_length())
        self.sums, self.squares, self.dots, self.factor, self.residual = (_floats(channels) for _ in range(5))
        self.last = _floats(row * channels)
        self.codes, self.kind, self.slot, self.size, self.fill, self.sorted = (_integers(channels) for _ in range(6))
        memories = [_integers(channels) for _ in range(6)]
        self.table = _integers(self.table_size)
        self.lists = tuple(ChannelList(memory, channels) for memory in memories)
        self.kept, self.singles, self.members, self.slots, self.flats, self.zeros = self.lists
        self.threshold, self.damage = emit.Register(1, 0.0), emit.Register(1, 0.0)
        self.groups, self.placed, self.merges = (emit.Register(1, T.int32(0), "int32") for _ in range(3))


class Patch(Place):
    """One patch of one conv group, to be grouped: allocates its scratch memory.

    Attributes:
        tensors: the kernel's.
        scratch: memory of its own.
        list, group_list: where its part of the lists by channel begins, and of those by group.
    """

    def __init__(self, geometry: ConvGeometry, lanes: int, tensors: GroupTensors, task: Expr, *, keeps: bool) -> None:
        """``task``: its number among all patches and conv groups; ``keeps``: whether its windows outlive it."""
        patch, group = emit.bind(task // geometry.groups), emit.bind(task % geometry.groups)
        super().__init__(geometry, lanes, tensors.windows if keeps else None, patch, group)
        self.tensors = tensors
        self.scratch = Scratch(self.channels, self.row)
        self.list = emit.bind(self.entry * self.channels)
        self.group_list = emit.bind(self.entry * (self.channels // 2 + 1))

    def norm2(self, c: Expr, n: int = 1) -> Expr:
        """|F_c|² of ``n`` channels."""
        return emit.load(self.tensors.filter_norm2, self.first_channel + c, n)

    def fill(self, memory: Expr, length: int, value: int) -> None:
        """Write one number everywhere."""
        emit.sweep(length, self.lanes, lambda i, n: emit.store(memory, i, emit.splat(T.int32(value), n), n))


def _floats(length: int) -> Expr:
    return T.alloc_buffer((length,), FLOAT32.dtype)


def _integers(length: int) -> Expr:
    return T.alloc_buffer((length,), "int32")
