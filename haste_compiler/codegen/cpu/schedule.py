"""A schedule for what TVM generated itself: outer loops over the threads, the innermost over the vector lanes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx

from haste_compiler.codegen.emit import KERNEL_ATTR
from haste_compiler.codegen.shapes import same_shape

_SMALLEST_PARALLEL = 1 << 13


def schedule_rest(mod: tvm.IRModule, lanes: int) -> tvm.IRModule:
    """Schedule every PrimFunc that isn't one of our kernels."""
    for name, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc) and not (func.attrs and func.attrs.get(KERNEL_ATTR)):
            mod.update_func(name, _schedule(func, lanes))
    return mod


def _schedule(func: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc:
    schedule = s_tir.Schedule(tvm.IRModule({"main": func}))
    _inline(schedule)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        _schedule_block(schedule, block, lanes)
    return schedule.mod["main"].with_attrs(dict(func.attrs))


def _inline(schedule: Any) -> None:
    """Compute what one operator hands to another element by element: else each would write a tensor of its own."""
    root = schedule.get_sblock("root")
    blocks, handed = schedule.get_child_blocks(root), schedule.get(root).alloc_buffers
    if len(blocks) < 2 or not all(_is_spatial(schedule, block) for block in blocks):
        return
    reads = _reads(schedule.mod["main"])
    *before, last = ([schedule.get(loop).extent for loop in schedule.get_loops(block)] for block in blocks)
    for block, extents in zip(blocks, before, strict=False):
        written = schedule.get(block).writes[0].source
        # What is repeated along an axis, or read twice, would be computed as often.
        if written in handed and reads[written] == 1 and same_shape(extents, last):
            schedule.compute_inline(block)


def _reads(func: tirx.PrimFunc) -> Counter[Any]:
    """How often each buffer is read in the text of a function."""
    found: Counter[Any] = Counter()

    def visit(load: Any) -> Any:
        found[load.source] += 1

    tvm_ffi.structural_walk(func.body, [(ir.TensorLoad, visit)])
    return found


def _is_spatial(schedule: Any, block: Any) -> bool:
    """Whether each element that a block writes is written once."""
    return all(variable.iter_type == tirx.IterVar.DataPar for variable in schedule.get(block).iter_vars)


def _schedule_block(schedule: Any, block: Any, lanes: int) -> None:
    loops = schedule.get_loops(block)
    kinds = [variable.iter_type for variable in schedule.get(block).iter_vars]
    extents = [schedule.get(loop).extent for loop in loops]
    if len(kinds) != len(loops) or not extents or not isinstance(extents[-1], tirx.IntImm):
        return
    spatial = 0
    while spatial < len(kinds) and kinds[spatial] == tirx.IterVar.DataPar:
        spatial += 1
    # Of a dynamic batch what counts is the work of one image.
    sizes = [int(extent) if isinstance(extent, tirx.IntImm) else 1 for extent in extents]
    work = 1
    for size in sizes:
        work *= size
    if spatial == 0 or work < 2 * lanes:
        return
    if spatial == len(loops):
        inner = loops[-1]
        width = lanes
        while sizes[-1] % width:
            width //= 2
        if width > 1:
            outer, vector = schedule.split(inner, [None, width])
            schedule.vectorize(vector)
            loops = [*loops[:-1], outer]
        sizes[-1] //= max(width, 1)
    if work >= _SMALLEST_PARALLEL:
        schedule.parallel(schedule.fuse(*loops[:spatial]) if spatial > 1 else loops[0])
