"""The windows of a patch made again, where the memory for all patches' would be too large to keep them."""

from __future__ import annotations

from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.merge import sum_windows
from haste_compiler.methods.haste.cpu.task import Task
from haste_compiler.methods.haste.cpu.window import find_window, read_window, write_mask


def restore_windows(task: Task) -> None:
    """Into the task's own memory, by the steps and in the order of grouping, which gives the same bits."""
    place, tensors = task.place, task.tensors
    window = find_window(place)
    read_window(place, window, tensors.x, T.alloc_buffer((place.row * place.channels,), FLOAT32.dtype))
    with T.serial(0, task.counts.groups) as g:
        at = emit.bind(task.group_list + g)
        start = emit.bind(tensors.starts[at])
        first, count = emit.bind(task.list + start), emit.bind(tensors.starts[at + 1] - start)
        target = emit.bind(place.own(tensors.rows[at]))
        sum_windows(place, partial(_listed, task, first), count, target, task.layer.merge)
    if task.layer.skip == "flat":
        with T.If(tirx.all(task.counts.flats > 0, task.on_border)), T.Then():
            write_mask(place, window)


def _listed(task: Task, first: Expr, number: Expr) -> Expr:
    """A channel of the list."""
    return task.tensors.order[first + number]
