"""Transposed convolutions on a card: a plain convolution for each phase, and their outputs interleaved."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx
from tvm import relax

from haste_compiler.codegen.cuda.machine import Cuda
from haste_compiler.codegen.cuda.rules.images import activation_of
from haste_compiler.codegen.cuda.rules.products import multiply
from haste_compiler.codegen.rules.activations import activate
from haste_compiler.codegen.rules.transposed import Transposed, transposed_rule
from haste_compiler.codegen.symbolic import main_shape
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.transposed import PlainPhase, phase_filters, plain_filters, plain_phase
from haste_compiler.codegen.walk import Walk
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D


def by_phases(walk: Walk[Cuda], node: fx.Node, call: Transposed) -> Any:
    """Launch the kernels of all phases; a residual is added afterwards, and then comes the activation too."""
    filters = plain_filters(call.weight, call.geometry.groups)
    vertical, horizontal = call.geometry.axes
    phases = [(rows, columns) for rows in vertical.phases for columns in horizontal.phases]
    fused = not call.residual and all(rows.taps and columns.taps for rows, columns in phases)
    by_products = call if fused else dataclasses.replace(call, activation="none")
    parts = []
    for rows, columns in phases:
        phase = plain_phase(call.geometry, rows, columns)
        if phase is None:
            parts.append(_bias(walk, call))
            continue
        taps = phase_filters(filters, rows, columns)
        product = by_products.product(phase.geometry, _cut(walk, call, phase), taps, call.bias, [])
        parts.append(multiply(walk, product))
    y = _interleaved(walk, call, parts)
    for residual in call.residual:
        y = walk.emit(relax.op.add(y, residual))
    if fused or call.activation == "none":
        return y
    return activate(walk, node, y, (call.out_shape, call.activation), activation_of)


def _cut(walk: Walk[Cuda], call: Transposed, phase: PlainPhase) -> Any:
    """The part of the image that a phase reads."""
    if phase.is_whole:
        return call.x
    begins, ends = zip(phase.rows, phase.columns, strict=True)
    return walk.emit(relax.op.strided_slice(call.x, [1, 2], begins, ends, [1, 1], assume_inbound=True))


def _bias(walk: Walk[Cuda], call: Transposed) -> Any:
    """The output of a phase without taps."""
    geometry = call.geometry
    shape = (call.batch, *(axis.count for axis in geometry.axes), geometry.out_channels)
    return walk.emit(relax.op.broadcast_to(walk.param(call.full_bias), main_shape(shape)))


def _interleaved(walk: Walk[Cuda], call: Transposed, parts: list[Any]) -> Any:
    """The output from its phases, those down first; what the larger ones have too much is cut off."""
    vertical, horizontal = call.geometry.axes
    (down, across), (rows, columns) = (len(vertical.phases), len(horizontal.phases)), (vertical.count, horizontal.count)
    batch, channels = call.batch, call.geometry.out_channels
    joined = parts[0] if len(parts) == 1 else walk.emit(relax.op.concat(parts, 3))
    split = walk.reshaped(joined, (batch, rows, columns, down, across, channels))
    moved = walk.emit(relax.op.permute_dims(split, [0, 1, 3, 2, 4, 5]))
    whole = walk.reshaped(moved, (batch, rows * down, columns * across, channels))
    if (rows * down, columns * across) == call.geometry.output_size:
        return whole
    ends = list(call.geometry.output_size)
    return walk.emit(relax.op.strided_slice(whole, [1, 2], [0, 0], ends, [1, 1], assume_inbound=True))


RULES: Rules = {CONV_TRANSPOSE2D: transposed_rule(multiply, by_phases)}
