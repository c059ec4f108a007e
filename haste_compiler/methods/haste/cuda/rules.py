"""HASTE's operators on a card: merge launches the kernels of grouping, convolve merges filters and multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from haste_compiler.codegen.cuda.machine import Cuda
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.haste.calls import Calls
from haste_compiler.methods.haste.cuda.convolve import (
    choose_haste_tile,
    haste_convolve_kernel,
    merge_filters_kernel,
    merged_filters_shape,
    pack_haste_filters,
)
from haste_compiler.methods.haste.cuda.group import group_steps
from haste_compiler.methods.haste.cuda.layout import MOST_CHANNELS, group_layout
from haste_compiler.methods.haste.cuda.sums import pack_planes
from haste_compiler.methods.haste.lowering import deferred, record_of, squared_norm
from haste_compiler.methods.haste.ops.convolve import CONVOLVE, ConvolveCall
from haste_compiler.methods.haste.ops.group import GROUP
from haste_compiler.methods.haste.ops.hash import HASH
from haste_compiler.methods.haste.ops.merge import MERGE


def merge(walk: Walk[Cuda], node: fx.Node) -> dict[str, Any]:
    """Launch the kernels of hashing, grouping and merging; returns their tensors by name."""
    calls, layer = Calls.of(node), node.meta["layer"]
    batch, channels, *size = shape_of(calls.hash.x)
    geometry = calls.hash.window.geometry(channels, size)
    rule, skip = calls.group.merge, calls.group.skip
    if geometry.in_channels // geometry.groups > MOST_CHANNELS:
        raise UnsupportedOperatorError(
            f"layer {layer!r} has {geometry.in_channels // geometry.groups} input channels a group: a card groups "
            f"up to {MOST_CHANNELS}; leave it dense, with layers={{{layer!r}: {{'enabled': False}}}}"
        )
    planes = walk.constant(calls.hash.planes)
    norm2 = squared_norm(walk, calls.group.filter_norm)
    layout = group_layout(geometry, batch, planes.shape[0], walk.machine.processors)
    tensors = {
        "x": walk.nhwc(calls.hash.x),
        "planes": walk.param(pack_planes(planes, layout)),
        "norm2": walk.param(norm2),
        "settings": walk.parameters_of(layer, 3),
    }
    for step in group_steps(layout, merge=rule, skip=skip):
        made = walk.launch_several(
            (f"haste_{step.kind}", layout, rule, skip),
            layer,
            [tensors[name] for name in step.inputs],
            layout.tensors(*step.outputs),
            step.kernel,
        )
        tensors.update(zip(step.outputs, made, strict=True))
    walk.add_record(record_of(walk, calls, batch, gated=False), [tensors["counts"], tensors["bound"]])
    return tensors


def convolve(walk: Walk[Cuda], node: fx.Node) -> Value:
    """Launch merging the filters, then the product of what is left."""
    call = ConvolveCall.of(node)
    grouped: dict[str, Any] = walk.values[call.merged]
    batch, geometry, layer = shape_of(call.slot)[0], call.geometry, layer_name(node)
    precision = walk.machine.precisions.convolution
    tile = choose_haste_tile(geometry, batch, walk.machine.processors, precision)
    filters = walk.param(pack_haste_filters(walk.constant(call.weight), geometry, tile, precision))
    lists = [grouped[name] for name in ("order", "coeff", "starts", "counts")]
    mixed = walk.launch(
        ("haste_filters", geometry, batch, tile, precision),
        layer,
        [*lists, filters],
        merged_filters_shape(geometry, batch, tile),
        lambda name: merge_filters_kernel(name, geometry, batch, tile, precision),
    )
    bias = np.zeros(geometry.out_channels, np.float32) if call.bias is None else walk.constant(call.bias)
    residual = [] if call.residual is None else [walk.nhwc(call.residual)]
    y = walk.launch(
        ("haste_convolve", geometry, batch, tile, precision, bool(residual), call.activation),
        layer,
        [grouped["merged"], grouped["order"], grouped["counts"], filters, mixed, walk.param(bias), *residual],
        (batch, *geometry.output_size, geometry.out_channels),
        lambda name: haste_convolve_kernel(
            name, geometry, batch, tile, precision, residual=bool(residual), activation=call.activation
        ),
    )
    return Value(y, nhwc=True)


RULES: Rules = {HASH: deferred, GROUP: deferred, MERGE: merge, CONVOLVE: convolve}
