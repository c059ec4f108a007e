"""A typed view of a custom operator's call: nobody counts its positional arguments."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from torch import fx

from haste_compiler.graph.nodes import argument, insert_call


@dataclasses.dataclass(frozen=True)
class OpCall:
    """The arguments of one call, fields in the order of the operator's schema.

    Attributes:
        OP: the operator's overload, as a node's target has it.
    """

    OP: ClassVar[Any]

    @classmethod
    def of(cls, node: fx.Node) -> Self:
        """The view of a node that calls the operator."""
        assert node.target is cls.OP, f"{node.target} is not {cls.OP}"
        operator: Any = cls.OP
        arguments = operator._schema.arguments
        return cls(*(argument(node, i, each.name, each.default_value) for i, each in enumerate(arguments)))

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments that make the same call again."""
        return tuple(getattr(self, each.name) for each in dataclasses.fields(self))

    def replace(self, **changes: Any) -> Self:
        """The same call with some arguments changed."""
        return dataclasses.replace(self, **changes)

    def insert(self, gm: fx.GraphModule, source: fx.Node) -> fx.Node:
        """Insert the call at the graph's insertion point; it comes from where ``source`` came from."""
        return insert_call(gm, self.OP, self.args, source)

    def write_to(self, node: fx.Node) -> None:
        """Let a node make this call."""
        node.target, node.args, node.kwargs = self.OP, self.args, {}
