"""HASTE's operators on a CPU: merge launches the first kernel, which hashes and groups too; convolve the second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from haste_compiler.codegen.cpu.kernels.conv2d import pack_bias
from haste_compiler.codegen.cpu.kernels.dense import pack_dense
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.haste.calls import Calls
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.filters import pack_haste_filters, pack_tap_sums
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.hashing import pack_hyperplanes
from haste_compiler.methods.haste.cpu.layout import group_layout, kept_images, may_restore
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from haste_compiler.methods.haste.lowering import deferred, record_of, squared_norm
from haste_compiler.methods.haste.ops.convolve import CONVOLVE, ConvolveCall
from haste_compiler.methods.haste.ops.group import GROUP
from haste_compiler.methods.haste.ops.hash import HASH
from haste_compiler.methods.haste.ops.merge import MERGE
from haste_compiler.ops.conv2d import WINOGRAD


@dataclass(frozen=True)
class _Grouped:
    """What ``convolve`` needs of the grouping before it.

    Attributes:
        tensors: that it wrote.
        x: the input, NHWC.
        reduction: its rules.
        chosen: what the gate chose; empty without one.
    """

    tensors: list[Any]
    x: Any
    reduction: Reduction
    chosen: list[Any]


def merge(walk: Walk[Cpu], node: fx.Node) -> _Grouped:
    """Launch hashing, grouping and merging."""
    calls, gate = Calls.of(node), node.meta.get("gate")
    x, (batch, channels, *size) = walk.nhwc(calls.hash.x), walk.shape(calls.hash.x)
    geometry = calls.hash.window.geometry(channels, size)
    lanes, reduction = walk.machine.unit.lanes, Reduction(calls.group.merge, calls.group.skip)
    planes = pack_hyperplanes(walk.constant(calls.hash.planes))
    norm2 = squared_norm(walk, calls.group.filter_norm)
    kept, layer, gated = kept_images(geometry, lanes, walk.machine.threads), node.meta["layer"], gate is not None
    layout = group_layout(geometry, batch, lanes, kept).tensors()
    settings = walk.parameters_of(layer, 3)
    tensors = walk.launch_several(
        ("haste_group", geometry, batch, reduction, gated, kept),
        layer,
        [
            x,
            walk.param(planes),
            walk.param(norm2),
            settings,
            *([walk.param(np.array(gate, np.float32))] if gated else []),
        ],
        [*layout, *([("chosen", (1,), "int32")] if gated else [])],
        lambda symbol: haste_group_kernel(
            symbol, geometry, batch, lanes, reduction=reduction, planes=planes.shape[0], gated=gated, kept=kept
        ),
    )
    *handed_on, counts, bound = tensors[: len(layout)]
    chosen = tensors[len(layout) :]
    walk.add_record(record_of(walk, calls, hint_of(batch), gated), [counts, bound, *chosen])
    return _Grouped([*handed_on, counts], x, reduction, chosen)


def convolve(walk: Walk[Cpu], node: fx.Node) -> Value:
    """Launch the convolution of merged windows with merged filters; behind a gate maybe the plain one."""
    call = ConvolveCall.of(node)
    grouped: _Grouped = walk.values[call.merged]
    batch, geometry, machine = walk.shape(call.slot)[0], call.geometry, walk.machine
    tiling = choose_haste_tiling(geometry, hint_of(batch), machine.unit, machine.threads)
    weight = walk.constant(call.weight)
    bias = None if call.bias is None else walk.constant(call.bias)
    dense, plain = None, []
    if grouped.chosen:
        dense = machine.choose_tiling(geometry, hint_of(batch), node.meta[WINOGRAD])
        plain = [*grouped.chosen, grouped.x, *map(walk.param, pack_dense(weight, bias, geometry, dense))]
    elif may_restore(batch, tiling.kept):
        plain = [grouped.x]
    args = [
        *plain,
        *grouped.tensors,
        walk.param(pack_haste_filters(weight, geometry.groups, tiling.tile)),
        walk.param(pack_tap_sums(weight, geometry.groups, tiling.tile)),
        walk.param(pack_bias(bias, geometry.out_channels, geometry.groups, tiling.tile)),
    ]
    if call.residual is not None:
        args.append(walk.nhwc(call.residual))
    residual = call.residual is not None
    y = walk.launch(
        ("haste_convolve", geometry, batch, tiling, grouped.reduction, residual, call.activation, dense),
        layer_name(node),
        args,
        (batch, *geometry.output_size, geometry.out_channels),
        lambda symbol: haste_convolve_kernel(
            symbol,
            geometry,
            batch,
            tiling,
            reduction=grouped.reduction,
            residual=residual,
            activation=call.activation,
            dense=dense,
        ),
    )
    return Value(y, nhwc=True)


RULES: Rules = {HASH: deferred, GROUP: deferred, MERGE: merge, CONVOLVE: convolve}
