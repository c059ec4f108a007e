"""Merging the windows of a patch's groups, and what that would lose."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.layout import mask_row
from haste_compiler.methods.haste.cpu.patch import Patch
from haste_compiler.methods.haste.cpu.place import Place
from haste_compiler.methods.haste.cpu.reduce import total
from haste_compiler.methods.haste.cpu.results import write_end, write_group

_VECTORS_AT_ONCE = 8


def merge_groups(patch: Patch, merge: str) -> None:
    """X_g, a_c and the residuals of every group; members whose damage exceeds the tolerance leave it."""
    scratch = patch.scratch
    members, merges = scratch.sorted, scratch.merges
    for register in (scratch.groups, scratch.placed):
        register.set(T.int32(0))
    scratch.damage.set(T.float32(0))
    merges.set(scratch.members.length)
    with T.serial(0, scratch.slots.length) as g:
        slot = emit.bind(scratch.slots[g])
        size = emit.bind(scratch.size[slot])
        begin = emit.bind(scratch.fill[slot] - size)
        row = emit.bind(patch.channels + g)
        _merge(patch, begin, size, row, merge)
        stayed = emit.Register(1, T.int32(0), "int32")
        with T.serial(0, size) as i:
            c = emit.bind(members[begin + i])
            leaves = emit.bind(scratch.residual[c] > scratch.threshold.get())
            emit.store(members, begin + stayed.get(), c)
            stayed.set(stayed.get() + tirx.Cast("int32", tirx.Not(leaves)))
            scratch.singles.append_if(c, leaves)
        scratch.singles.append_if(members[begin], stayed.get() == 1)
        with T.If(stayed.get() >= 2), T.Then():
            with T.If(stayed.get() < size), T.Then():
                _merge(patch, begin, stayed.get(), row, merge)
                merges.set(merges.get() + stayed.get())
            write_group(patch, begin, stayed.get(), row)
    write_end(patch, mask_row(patch.channels))


def _merge(patch: Patch, begin: Expr, count: Expr, row: Expr, merge: str) -> None:
    """X_g of the members ``sorted[begin : begin + count]`` into a row of the windows; a_c and residual of each."""
    members, target = patch.scratch.sorted, emit.bind(patch.own(row))
    energy = sum_windows(patch, lambda i: members[begin + i], count, target, merge)
    square = emit.Register(1)
    square.set(energy.total())
    with T.serial(0, count) as i:
        _measure(patch, emit.bind(members[begin + i]), target, square.get(), merge)


def sum_windows(place: Place, member: Callable[[Expr], Expr], count: Expr, target: Expr, merge: str) -> emit.Register:
    """X_g of ``count`` channels, of which ``member`` gives the one of a number, written to ``target``.

    Returns:
        Its squared norm, to be added up over the lanes.
    """
    lanes, windows = place.lanes, place.windows
    scale = emit.bind(1 / tirx.Cast(FLOAT32.dtype, T.max(count, 1))) if merge == "mean" else None
    energy = emit.Register(lanes, 0.0)
    vectors = place.row // lanes
    at_once = next(n for n in range(min(vectors, _VECTORS_AT_ONCE), 0, -1) if vectors % n == 0)
    with T.serial(0, vectors // at_once) as part:
        start = emit.bind(part * at_once * lanes)
        sums = [emit.Register(lanes, 0.0) for _ in range(at_once)]
        with T.serial(0, count) as i:
            source = emit.bind(place.own(member(i)) + start)
            for v, register in enumerate(sums):
                register.add(emit.load(windows, source + v * lanes, lanes))
        for v, register in enumerate(sums):
            if scale is not None:
                register.set(register.get() * emit.splat(scale, lanes))
            energy.add(register.get() * register.get())
            emit.store(windows, target + start + v * lanes, register.get(), lanes)
    return energy


def _measure(patch: Patch, c: Expr, shared: Expr, energy: Expr, merge: str) -> None:
    """a_c and (|P_c - a_c X_g| |F_c|)² of one member; X_g is at ``shared``, ``energy`` is its squared norm."""
    lanes, row, windows, scratch = patch.lanes, patch.row, patch.windows, patch.scratch
    own = emit.bind(patch.own(c))
    factor = T.float32(1)
    if merge == "projection":

        def product(i: Expr, n: int) -> Expr:
            return emit.load(windows, own + i, n) * emit.load(windows, shared + i, n)

        dot = emit.bind(total(product, row, lanes))
        # The divisor is never zero, also in the lane that Select doesn't take.
        some = energy > T.float32(0)
        factor = tirx.Select(some, dot / tirx.Select(some, energy, T.float32(1)), T.float32(0))
    a = T.bind(factor)

    def square(i: Expr, n: int) -> Expr:
        rest = emit.load(windows, shared + i, n) * emit.splat(a, n)
        rest = T.bind(emit.load(windows, own + i, n) - rest)
        return rest * rest

    emit.store(scratch.factor, c, a)
    emit.store(scratch.residual, c, total(square, row, lanes) * patch.norm2(c))
