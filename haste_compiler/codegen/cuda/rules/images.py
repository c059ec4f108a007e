"""Images on a card: pooling, activations and joins of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx
from tvm import relax, tirx

from haste_compiler.codegen.cuda.kernels.pointwise import activation_kernel, pooling_kernel
from haste_compiler.codegen.cuda.machine import Cuda
from haste_compiler.codegen.rules.activations import activate, activation_rules
from haste_compiler.codegen.rules.layout import Maps, joining_rules
from haste_compiler.codegen.rules.pooling import pooling_rules
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Walk


def join(walk: Walk[Cuda], node: fx.Node, parts: Sequence[fx.Node], maps: Maps | None, activation: str) -> Any:
    """Join images along their channels, with the maps after it, by TVM's operators."""
    sources = [walk.nhwc(part) for part in parts]
    tables = [] if maps is None else [walk.value(each).expr for each in maps]
    x = sources[0] if len(sources) == 1 else walk.emit(relax.op.concat(sources, 3))
    if tables:
        scale, shift = tables
        x = walk.emit(relax.op.add(walk.emit(relax.op.multiply(x, scale)), shift))
    n, c, h, w = walk.shape(node)
    return x if activation == "none" else activate(walk, node, x, ((n, h, w, c), activation), activation_of)


def activation_of(walk: Walk[Cuda], name: str, shape: tuple[Any, ...], activation: str) -> tirx.PrimFunc:
    """The kernel of an activation by itself."""
    return activation_kernel(name, shape, activation)


RULES: Rules = {
    **pooling_rules(lambda walk, name, pooling, batch, channels: pooling_kernel(name, pooling, batch, channels)),
    **activation_rules(activation_of),
    **joining_rules(join),
}
