"""The gate: a few patches all over the images go first; where they don't pay, the others are left alone.

The second half then computes the plain convolution: on such images the layer costs little more than if it were dense.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.counts import COUNTS, Counts
from haste_compiler.methods.haste.cpu.patch import GroupTensors
from haste_compiler.methods.haste.cpu.sampling import Sampling


def write_gated(
    sampled: Sampling, channels: int, tensors: GroupTensors, gate: Expr, chosen: Expr, group: Callable[[Expr], None]
) -> None:
    """First the samples, then the other patches if it pays.

    Args:
        sampled: which patches go first.
        channels: of a conv group.
        tensors: the kernel's.
        gate: (1 + counts,), see ``haste_group_kernel``.
        chosen: (1,), written.
        group: (task) emits the grouping of one patch of one conv group.
    """
    # One body for both sweeps: it is most of the kernel's code.
    with T.serial(0, 2) as sweep:
        with T.If(sweep == 1), T.Then():
            _choose(sampled, tensors.counts, gate, chosen)
        with T.parallel(0, sampled.tasks) as task:
            first = sampled.is_sample(task)
            later = tirx.all(sweep == 1, tirx.Not(first), chosen[0] == 1)
            with T.If(tirx.any(tirx.all(sweep == 0, first), later)), T.Then():
                group(task)
    with T.If(chosen[0] == 0), T.Then(), T.serial(0, sampled.tasks) as task:
        _write_alone(sampled, channels, tensors, task)


def _choose(sampled: Sampling, counts: Expr, gate: Expr, chosen: Expr) -> None:
    """Whether the samples cost no more than the plain convolution of as many patches."""
    cost = emit.Register(1, 0.0)
    with T.serial(0, sampled.samples) as i:
        entry = emit.bind((i * sampled.step + sampled.step // 2) * len(COUNTS))
        for k in range(len(COUNTS)):
            cost.add(gate[1 + k] * tirx.Cast(FLOAT32.dtype, counts[entry + k]))
    samples = sampled.samples if isinstance(sampled.samples, int) else tirx.Cast(FLOAT32.dtype, sampled.samples)
    T.buffer_store(chosen, tirx.Cast("int32", cost.get() <= gate[0] * samples), [0])


def _write_alone(sampled: Sampling, channels: int, tensors: GroupTensors, task: Expr) -> None:
    """Counts of a patch whose channels are all alone."""
    places = Counts(*(task * len(COUNTS) + i for i in range(len(COUNTS))))
    # What merging in a sample cost was spent.
    with T.If(tirx.Not(sampled.is_sample(task))), T.Then():
        T.buffer_store(tensors.counts, T.int32(0), [places.merges])
    T.buffer_store(tensors.counts, T.int32(channels), [places.singles])
    for place in (places.groups, places.members, places.zeros, places.flats):
        T.buffer_store(tensors.counts, T.int32(0), [place])
    T.buffer_store(tensors.bound, T.float32(0), [task])
