"""What lowering HASTE's operators has in common on all targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.program import Record
from haste_compiler.codegen.walk import Walk
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.haste.ops.convolve import CONVOLVE, ConvolveCall
from haste_compiler.methods.haste.ops.group import GroupCall
from haste_compiler.methods.haste.ops.hash import HashCall
from haste_compiler.methods.haste.ops.merge import MergeCall
from haste_compiler.methods.haste.record import Grouping
from haste_compiler.methods.haste.settings import Settings


class Deferred:
    """The value of a call that a later one computes as well."""


def deferred(walk: Walk[Any], node: fx.Node) -> Deferred:
    """The rule of hash and group: what merge launches does their work."""
    return Deferred()


@dataclass(frozen=True)
class Calls:
    """The calls that group a tensor's channels: ``merge``, and those that it depends on.

    Attributes:
        node: the node of ``merge``.
        merge, group, hash: the three calls.
    """

    node: fx.Node
    merge: MergeCall
    group: GroupCall
    hash: HashCall

    @classmethod
    def of(cls, node: fx.Node) -> Calls:
        """The calls that a node of ``merge`` ends."""
        merge = MergeCall.of(node)
        group = GroupCall.of(merge.slot.all_input_nodes[0])
        return cls(node, merge, group, HashCall.of(group.codes))

    def record(self, walk: Walk[Any], images: int, gated: bool) -> Record:
        """The record of the convolutions that share the grouping, for a batch of ``images``."""
        convolutions = [user for user in self.node.users if is_call(user, CONVOLVE)]
        geometries = tuple(ConvolveCall.of(each).geometry for each in convolutions)
        grouping = Grouping(geometries, images, self.group.merge, self.group.skip, self.node.meta["nonzeros"], gated)
        return grouping.record(list(map(layer_name, convolutions)), Settings.read(walk.constant(self.hash.settings)))


def squared_norm(walk: Walk[Any], norm: fx.Node) -> NDArray[np.float32]:
    """|F_c|², float32 (C,), from |F_c|."""
    return np.square(walk.constant(norm).astype(np.float64)).astype(np.float32)
