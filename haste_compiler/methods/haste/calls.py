"""The calls that group a tensor's channels, found from the last of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from haste_compiler.graph.nodes import is_call
from haste_compiler.methods.haste.ops.convolve import CONVOLVE
from haste_compiler.methods.haste.ops.group import GroupCall
from haste_compiler.methods.haste.ops.hash import HashCall
from haste_compiler.methods.haste.ops.merge import MergeCall


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

    @property
    def convolutions(self) -> list[fx.Node]:
        """The convolutions that share the grouping."""
        return [user for user in self.node.users if is_call(user, CONVOLVE)]
