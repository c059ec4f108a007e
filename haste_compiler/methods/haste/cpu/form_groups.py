"""Forming groups: channels of equal code find each other in a table, and are sorted group by group."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.methods.haste.cpu.patch import Patch


def form_groups(patch: Patch) -> None:
    """Kept channels of equal code share a slot, the first of them; those alone in theirs are singles."""
    scratch = patch.scratch
    kept, codes, table, size = scratch.kept, scratch.codes, scratch.table, scratch.size
    patch.fill(table, scratch.table_size, -1)
    patch.fill(size, patch.channels, 0)
    with T.serial(0, kept.length) as i:
        c = emit.bind(kept[i])
        code = emit.bind(codes[c])
        # Folded by xor: TVM promises LLVM that a product never overflows, so no multiplicative hash.
        mixed = code ^ (code >> 7) ^ (code >> 15) ^ (code >> 22)
        place, found = emit.Register(1, dtype="int32"), emit.Register(1, dtype="int32")
        place.set(mixed & (scratch.table_size - 1))
        found.set(T.int32(-1))
        with T.While(found.get() < 0):
            holder = emit.bind(table[place.get()])
            with T.If(holder < 0):
                with T.Then():
                    emit.store(table, place.get(), c)
                    found.set(c)
                with T.Else(), T.If(codes[T.max(holder, 0)] == code):
                    with T.Then():
                        found.set(holder)
                    with T.Else():
                        place.set((place.get() + 1) & (scratch.table_size - 1))
        emit.store(scratch.slot, c, found.get())
        emit.store(size, found.get(), size[found.get()] + 1)
    with T.serial(0, kept.length) as i:
        c = emit.bind(kept[i])
        slot = emit.bind(scratch.slot[c])
        together = emit.bind(size[slot] >= 2)
        scratch.members.append_if(c, together)
        scratch.singles.append_if(c, tirx.Not(together))
        scratch.slots.append_if(c, tirx.all(together, slot == c))


def sort_members(patch: Patch) -> None:
    """The members group by group: a counting sort that keeps the channels of a group in order."""
    scratch = patch.scratch
    slots, members, fill = scratch.slots, scratch.members, scratch.fill
    begin = emit.Register(1, T.int32(0), "int32")
    with T.serial(0, slots.length) as i:
        slot = emit.bind(slots[i])
        emit.store(fill, slot, begin.get())
        begin.set(begin.get() + scratch.size[slot])
    with T.serial(0, members.length) as i:
        c = emit.bind(members[i])
        slot = emit.bind(scratch.slot[c])
        emit.store(scratch.sorted, fill[slot], c)
        emit.store(fill, slot, fill[slot] + 1)
