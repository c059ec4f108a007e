"""Before a tile of output channels is convolved: what its sums start with, and the merged filters of each group."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.task import Task

_MOST_VECTORS_AT_ONCE = 18


def start_sums(task: Task, packed: Expr) -> None:
    """Bias, and the carried means of flat channels where the window has no border."""
    layer, tensors, tile = task.layer, task.tensors, task.layer.tile
    for v, register in enumerate(task.start):
        register.set(emit.load(tensors.bias, packed * tile.channels + v * tile.lanes, tile.lanes))
    if layer.skip != "flat":
        return
    flats = task.counts.flats
    with T.If(tirx.all(flats > 0, tirx.Not(task.on_border))), T.Then(), T.serial(0, flats) as i:
        at = emit.bind(task.flats + i)
        mean = T.bind(emit.splat(tensors.coeff[at], tile.lanes))
        taps = emit.bind((packed * layer.channels + tensors.order[at]) * tile.channels)
        for v, register in enumerate(task.start):
            register.add(mean * emit.load(tensors.tap_sums, taps + v * tile.lanes, tile.lanes))


def merge_filters(task: Task, packed: Expr) -> None:
    """F_g = sum of a_c F_c for every group; near a border one more, sum of d_c F_c, convolved with the mask."""
    counts, starts = task.counts, task.tensors.starts
    with T.serial(0, counts.groups) as g:
        start = emit.bind(starts[task.group_list + g])
        count = emit.bind(starts[task.group_list + g + 1] - start)
        _sum_filters(task, packed, g, emit.bind(task.list + start), count)
    task.convolved.set(counts.groups)
    if task.layer.skip == "flat":
        with T.If(tirx.all(counts.flats > 0, task.on_border)), T.Then():
            _sum_filters(task, packed, counts.groups, emit.bind(task.flats), counts.flats)
            task.convolved.set(counts.groups + 1)


def _sum_filters(task: Task, packed: Expr, target: Expr, first: Expr, count: Expr) -> None:
    """Filters of ``count`` channels of the list, weighted, into merged filter ``target``."""
    layer, tensors, lanes = task.layer, task.tensors, task.layer.tile.lanes
    vectors = layer.filter_elements // lanes
    at_once = next(n for n in range(min(vectors, _MOST_VECTORS_AT_ONCE), 0, -1) if vectors % n == 0)
    with T.serial(0, vectors // at_once) as part:
        sums = layer.registers(at_once)
        for register in sums:
            register.set(emit.splat(0.0, lanes, layer.element.accumulator))
        with T.serial(0, count) as i:
            task.prefetch(packed, tensors.order[first + i], task.turn, layer.sharing)
            factor = T.bind(emit.splat(tensors.coeff[first + i], lanes))
            source = emit.bind(task.filter(packed, tensors.order[first + i]) + part * at_once * lanes)
            for v, register in enumerate(sums):
                register.add(factor * emit.load(tensors.filters, source + v * lanes, lanes))
        start = emit.bind(target * layer.filter_elements + part * at_once * lanes)
        for v, register in enumerate(sums):
            emit.store(task.merged, start + v * lanes, register.get(), lanes)
