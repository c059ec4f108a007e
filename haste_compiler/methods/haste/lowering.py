"""What lowering HASTE's operators has in common on all targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.program import Record
from haste_compiler.codegen.walk import Walk
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.haste.calls import Calls
from haste_compiler.methods.haste.ops.convolve import ConvolveCall
from haste_compiler.methods.haste.record import Grouping
from haste_compiler.methods.haste.settings import Settings


class Deferred:
    """The value of a call that a later one computes as well."""


def deferred(walk: Walk[Any], node: fx.Node) -> Deferred:
    """The rule of hash and group: what merge launches does their work."""
    return Deferred()


def record_of(walk: Walk[Any], calls: Calls, images: int, gated: bool) -> Record:
    """The record of the convolutions that share a grouping, for a batch of ``images``."""
    convolutions = calls.convolutions
    geometries = tuple(ConvolveCall.of(each).geometry for each in convolutions)
    grouping = Grouping(geometries, images, calls.group.merge, calls.group.skip, calls.node.meta["nonzeros"], gated)
    settings = Settings.read(walk.constant(calls.hash.settings).tolist())
    return grouping.record(list(map(layer_name, convolutions)), settings)


def squared_norm(walk: Walk[Any], norm: fx.Node) -> NDArray[np.float32]:
    """|F_c|², float32 (C,), from |F_c|."""
    return np.square(walk.constant(norm).astype(np.float64)).astype(np.float32)
