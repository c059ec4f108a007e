"""Replaying a compiled network's graph in eager PyTorch, every layer on what the compiled one before it made."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.observed import Observed
from haste_compiler.methods.registry import method, methods
from haste_compiler.methods.replayed import OwnedLayer
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR

aten = torch.ops.aten

_POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
_KINDS: dict[Any, str] = {CONV2D: "conv", LINEAR: "linear", **dict.fromkeys(_POOLS, "pool")}
"""The operators of no method that have kernels of their own, and what their layers are called."""


def is_layer(node: fx.Node) -> bool:
    """Whether a node of a rewritten graph has a kernel of its own."""
    return OWNER in node.meta or is_call(node, *_KINDS)


def is_product(node: fx.Node) -> bool:
    """Whether it is a convolution, a linear layer, or what a method put in such a layer's place."""
    return OWNER in node.meta or is_call(node, CONV2D, LINEAR)


def deferred_operators() -> tuple[Any, ...]:
    """The methods' operators whose work is done where a layer needs it."""
    return tuple(each for method in methods() for each in method.deferred())


@dataclass(frozen=True)
class Deferred:
    """The value of a call whose work is done where a layer needs it.

    Attributes:
        values: of the nodes that it and the deferred calls before it read, but for these calls.
    """

    values: Mapping[fx.Node, Any]


@dataclass(frozen=True)
class Layer:
    """A node that has a kernel of its own, with everything that it computes from.

    Attributes:
        node: in the graph.
        args: the node's arguments, values in the place of nodes; empty where a method owns the layer.
        owned: what its method says of it; None: no method owns it.
    """

    node: fx.Node
    args: tuple[Any, ...] = ()
    owned: OwnedLayer | None = None

    @property
    def name(self) -> str:
        """Qualified name."""
        return layer_name(self.node)

    @property
    def kind(self) -> str:
        """The name of the method that owns it; else "conv", "linear" or "pool"."""
        return self.node.meta.get(OWNER) or _KINDS[self.node.target]

    @property
    def x(self) -> Tensor:
        """What it reads."""
        read: Tensor = self.args[0] if self.owned is None else self.owned.x
        return read

    def compute(self) -> Tensor:
        """What the layer should return."""
        if self.owned is not None:
            return self.owned.compute()
        return self.node.target(*self.args)  # type: ignore[operator]

    def plain(self) -> Tensor:
        """What it would return if no method did anything."""
        return self.compute() if self.owned is None else self.owned.plain()


class Replay(fx.Interpreter):
    """Runs a rewritten graph node by node, and asks at every layer what the value is to be from there on.

    Args:
        gm: a graph that ``run_passes`` returned.
        see: called with every layer and returns the value that later nodes read.
        steered: values of the methods' parameters, by the name of each layer that they are for, in the place of those
            in the graph.
        watch: called with every node of a method's before that.
    """

    def __init__(
        self,
        gm: fx.GraphModule,
        see: Callable[[Layer], Tensor],
        steered: Mapping[str, Sequence[float]] | None = None,
        watch: Callable[[Observed], None] = lambda observed: None,
    ) -> None:
        super().__init__(gm)
        self._see, self._steered, self._watch = see, steered or {}, watch
        self._deferred = deferred_operators()

    def flat(self, tensors: Sequence[Tensor]) -> list[Any]:
        """What the graph returns for its flat inputs, flat."""
        with torch.no_grad():
            return list(self.run(*tensors, enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        """See ``fx.Interpreter``."""
        if self._is_deferred(n):
            return Deferred(self._values(n))
        layer = self._layer(n)
        return super().run_node(n) if layer is None else self._see(layer)

    def _is_deferred(self, n: fx.Node) -> bool:
        picked = n.args[0] if is_call(n, operator.getitem) else None
        return is_call(n, *self._deferred) or (isinstance(picked, fx.Node) and isinstance(self.env[picked], Deferred))

    def _layer(self, n: fx.Node) -> Layer | None:
        owner = n.meta.get(OWNER)
        if owner is not None:
            values, steered = self._values(n), self._steered.get(layer_name(n))
            self._watch(Observed(n, values, steered))
            owned = method(owner).replayed(n, values, steered)
            return None if owned is None else Layer(n, owned=owned)
        if is_call(n, *_KINDS) and not n.kwargs:
            args, _ = self.fetch_args_kwargs_from_env(n)
            return Layer(n, tuple(args))
        return None

    def _values(self, n: fx.Node) -> dict[fx.Node, Any]:
        """The values that a node and the deferred calls before it read: they are freed after their last use."""
        values: dict[fx.Node, Any] = {}
        for source in n.all_input_nodes:
            value = self.env[source]
            values |= value.values if isinstance(value, Deferred) else {source: value}
        return values
