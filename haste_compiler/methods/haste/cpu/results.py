"""Writing what became of a patch's channels for the convolution to read.

The list of channels names members of groups, singles, flat ones, zeros, in this order.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.counts import COUNTS, Counts
from haste_compiler.methods.haste.cpu.patch import Patch


def write_group(patch: Patch, begin: Expr, count: Expr, row: Expr) -> None:
    """A group's members with their coefficients, where they start, and the row of their sum."""
    scratch, tensors = patch.scratch, patch.tensors
    write_end(patch, row)
    at = emit.bind(patch.list + scratch.placed.get())
    with T.serial(0, count) as i:
        c = emit.bind(scratch.sorted[begin + i])
        T.buffer_store(tensors.order, c, [at + i])
        T.buffer_store(tensors.coeff, scratch.factor[c], [at + i])
        scratch.damage.set(scratch.damage.get() + tirx.sqrt(scratch.residual[c]))
    scratch.groups.set(scratch.groups.get() + 1)
    scratch.placed.set(scratch.placed.get() + count)


def write_end(patch: Patch, row: Expr) -> None:
    """Where the next group's members start, and the row that it convolves."""
    at = patch.group_list + patch.scratch.groups.get()
    T.buffer_store(patch.tensors.starts, patch.scratch.placed.get(), [at])
    T.buffer_store(patch.tensors.rows, row, [at])


def write_singles(patch: Patch) -> None:
    """The channels that are alone, after the members; their windows are used as they are."""
    scratch = patch.scratch
    with T.serial(0, scratch.singles.length) as i:
        T.buffer_store(patch.tensors.order, scratch.singles[i], [patch.list + scratch.placed.get() + i])


def write_dropped(patch: Patch, inverse: Expr) -> None:
    """Flat channels with their means, then zeros; ``inverse`` is one over the window's pixels on the image."""
    scratch, tensors = patch.scratch, patch.tensors
    kept = emit.bind(patch.list + scratch.singles.length + scratch.placed.get())
    with T.serial(0, scratch.flats.length) as i:
        c = emit.bind(scratch.flats[i])
        total = emit.bind(scratch.sums[c])
        T.buffer_store(tensors.order, c, [kept + i])
        T.buffer_store(tensors.coeff, total * inverse, [kept + i])
        rest = T.max(scratch.squares[c] - total * total * inverse, T.float32(0)) * patch.norm2(c)
        scratch.damage.set(scratch.damage.get() + tirx.sqrt(rest))
    with T.serial(0, scratch.zeros.length) as i:
        T.buffer_store(tensors.order, scratch.zeros[i], [kept + scratch.flats.length + i])


def write_counts(patch: Patch) -> None:
    """The counts, and the bound."""
    scratch = patch.scratch
    counts = Counts(
        singles=scratch.singles.length,
        groups=scratch.groups.get(),
        members=scratch.placed.get(),
        zeros=scratch.zeros.length,
        flats=scratch.flats.length,
        merges=scratch.merges.get(),
    )
    for i, number in enumerate(counts):
        T.buffer_store(patch.tensors.counts, number, [patch.entry * len(COUNTS) + i])
    T.buffer_store(patch.tensors.bound, scratch.damage.get(), [patch.entry])
