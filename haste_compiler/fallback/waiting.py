"""Calls that wait for each other: PyTorch runs neighbours in one region, when somebody needs a value of theirs."""

from __future__ import annotations

import operator

from torch import Tensor, fx

from haste_compiler.graph.nodes import is_call, is_size, unsupported


class Waiting:
    """The calls of a graph that were left to PyTorch and are not made yet."""

    def __init__(self) -> None:
        self._nodes: dict[fx.Node, None] = {}

    def add(self, node: fx.Node) -> None:
        """Let a call wait.

        Raises:
            UnsupportedOperatorError: its value is neither a tensor nor made of tensors.
        """
        self._nodes[node] = None
        if isinstance(node.meta.get("val"), Tensor):
            return
        if not node.users or not all(is_call(user, operator.getitem) for user in node.users):
            raise unsupported(node, f"its value is {type(node.meta.get('val')).__name__}")
        # Only tensors are handed on: what picks from several belongs to the call that makes them.
        for user in node.users:
            self.add(user)

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def take(self, wanted: fx.Node) -> list[fx.Node]:
        """What has to be called for one node's value, in order; it waits no longer."""
        needed: set[fx.Node] = set()
        stack, seen = [wanted], set[fx.Node]()
        while stack:
            node = stack.pop()
            if node in seen or not (node in self._nodes or is_size(node)):
                continue
            seen.add(node)
            stack += node.all_input_nodes
            if node in self._nodes:
                needed.add(node)
                stack += [user for user in node.users if not isinstance(node.meta.get("val"), Tensor)]
        taken = [node for node in self._nodes if node in needed]
        for node in taken:
            del self._nodes[node]
        return sorted(taken)
