"""The first half of a HASTE convolution: read each patch's window, hash its channels, group and merge them.

One task is one patch of one conv group. The window is read channel-last, where hashing and norms run with channels in
the lanes and cost little, then written out transposed, because merging and the convolution want each channel's
pixels together. Behind the channels' windows lie the groups' sums. Windows of more images than memory has room for are
left behind, and the second half makes them again. Channels are sorted into lists without branches:
what becomes of a channel can't be predicted, and a mispredicted branch costs more than the work it saves.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS
from haste_compiler.methods.haste.cpu.classify import classify, measure_energy, sort_by_kind
from haste_compiler.methods.haste.cpu.form_groups import form_groups, sort_members
from haste_compiler.methods.haste.cpu.gate import write_gated
from haste_compiler.methods.haste.cpu.hashing import hash_channels
from haste_compiler.methods.haste.cpu.layout import group_layout
from haste_compiler.methods.haste.cpu.merge import merge_groups
from haste_compiler.methods.haste.cpu.patch import GroupTensors, Patch
from haste_compiler.methods.haste.cpu.place import write_either
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.results import write_counts, write_dropped, write_singles
from haste_compiler.methods.haste.cpu.sampling import sampling
from haste_compiler.methods.haste.cpu.window import find_window, read_window, write_mask


def haste_group_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    lanes: int,
    *,
    reduction: Reduction,
    planes: int,
    gated: bool = False,
    kept: int | None = None,
) -> tirx.PrimFunc:
    """The kernel (x NHWC, hyperplane table, |F_c|² (C,), settings (3,), then the tensors of ``GroupLayout``).

    ``gated``: also takes ``gate`` (1 + counts,) after the settings, what a patch may cost at most and what each unit of
    its counts costs, and writes ``chosen`` (1,) last: 1, or 0 where the samples cost more and the plain convolution is
    to be computed. The counts then say that every channel is alone, and the merges done are those of the samples.
    ``kept``: see ``kept_images``; None keeps all windows.
    """
    height, width = geometry.input_size
    arguments: list[tuple[str, tuple[Any, ...], str]] = [
        ("x", (batch, height, width, geometry.in_channels), FLOAT32.dtype),
        ("planes", (planes, 2 + geometry.window_pixels), "int32"),
        ("filter_norm2", (geometry.in_channels,), FLOAT32.dtype),
        ("settings", (3,), FLOAT32.dtype),
        *([("gate", (1 + len(COUNTS),), FLOAT32.dtype)] if gated else []),
        *group_layout(geometry, batch, lanes, kept).tensors(),
        *([("chosen", (1,), "int32")] if gated else []),
    ]

    def body(*buffers: Expr) -> None:
        named = dict(zip((label for label, *_ in arguments), buffers, strict=True))
        gate, chosen = named.pop("gate", None), named.pop("chosen", None)
        tensors = GroupTensors(**named)
        sampled = sampling(geometry, emit.bind(images_of(batch)))

        def write(keeps: bool) -> None:
            def group(task: Expr) -> None:
                _group(Patch(geometry, lanes, tensors, task, keeps=keeps), reduction)

            if gated:
                write_gated(sampled, geometry.in_channels // geometry.groups, tensors, gate, chosen, group)
            else:
                with T.parallel(0, sampled.tasks) as task:
                    group(task)

        write_either(batch, kept, write)

    return emit.kernel(name, arguments, body)


def _group(patch: Patch, reduction: Reduction) -> None:
    """The steps of one patch."""
    window = find_window(patch)
    scratch = patch.scratch
    read_window(patch, window, patch.tensors.x, scratch.last, (scratch.sums, scratch.squares))
    hash_channels(patch)
    energy, inverse = measure_energy(patch), window.inverse()
    classify(patch, energy, inverse, reduction.skip)
    sort_by_kind(patch)
    form_groups(patch)
    sort_members(patch)
    merge_groups(patch, reduction.merge)
    write_singles(patch)
    write_dropped(patch, inverse)
    with T.If(tirx.all(scratch.flats.length > 0, window.on_border)), T.Then():
        write_mask(patch, window)
    write_counts(patch)
