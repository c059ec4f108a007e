"""Replaying a compiled network's graph in eager PyTorch, every layer on what the compiled one before it made."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.haste.ops.convolve import CONVOLVE
from haste_compiler.methods.haste.ops.group import GROUP
from haste_compiler.methods.haste.ops.hash import HASH
from haste_compiler.methods.haste.ops.merge import MERGE
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR

haste, aten = torch.ops.haste, torch.ops.aten

GROUPING = (HASH, GROUP, MERGE)
LAYERS = (CONV2D, LINEAR, CONVOLVE)
_POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
RECORDED = (*LAYERS, *_POOLS)
"""The operators that have kernels of their own."""


class Grouping(NamedTuple):
    """The inputs of a hash, group and merge, which are computed where a convolution needs them.

    Attributes:
        x: (N, C, H, W), what the layer reads.
        planes, norm: hyperplanes and the norms of the channels' filters.
        settings: packed.
        window: kernel, stride, padding, dilation, groups, patch.
        merge, skip: the rules.
    """

    x: Tensor
    planes: Tensor
    settings: Tensor
    window: tuple[Any, ...]
    norm: Tensor | None = None
    merge: str = ""
    skip: str = ""


@dataclass(frozen=True)
class Layer:
    """A node that has a kernel of its own, with everything that it computes from.

    Attributes:
        node: in the graph.
        args: the node's arguments, values in the place of nodes; a ``Grouping`` first where it is a HASTE convolution.
    """

    node: fx.Node
    args: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Qualified name."""
        return layer_name(self.node)

    @property
    def kind(self) -> str:
        """ "haste", "conv", "linear" or "pool"."""
        names: dict[Any, str] = {
            CONVOLVE: "haste",
            CONV2D: "conv",
            LINEAR: "linear",
        }
        return names.get(self.node.target, "pool")

    @property
    def x(self) -> Tensor:
        """What it reads."""
        first: Any = self.args[0]
        return first.x if isinstance(first, Grouping) else first

    def compute(self, x: Tensor | None = None) -> Tensor:
        """What the layer should return; ``x`` instead of what it reads."""
        if not isinstance(self.args[0], Grouping):
            return self.node.target(self.x if x is None else x, *self.args[1:])  # type: ignore[operator]
        whole = self.args[0]
        x = whole.x if x is None else x
        codes = haste.hash(x, whole.planes, whole.settings, *whole.window)
        groups = haste.group(x, codes, whole.norm, whole.settings, *whole.window, whole.merge, whole.skip)
        merged = haste.merge(x, groups[0], *whole.window, whole.merge)
        result: Tensor = haste.convolve(merged, *groups, *self.args[4:])
        return result

    def plain(self) -> Tensor:
        """What it would return if nothing were merged: the plain convolution."""
        if not isinstance(self.args[0], Grouping):
            return self.compute()
        weight, bias, residual, _, stride, padding, dilation, groups, _, activation = self.args[4:]
        result: Tensor = haste.conv2d(self.x, weight, bias, residual, stride, padding, dilation, groups, activation)
        return result


class Replay(fx.Interpreter):
    """Runs a rewritten graph node by node, and asks at every layer what the value is to be from there on.

    Args:
        gm: a graph that ``run_passes`` returned.
        see: called with every layer and returns the value that later nodes read.
        settings: of each grouping, by the name of its first layer, in the place of those in the graph.
    """

    def __init__(
        self, gm: fx.GraphModule, see: Callable[[Layer], Tensor], settings: dict[str, Settings] | None = None
    ) -> None:
        super().__init__(gm)
        self._see, self._settings = see, settings or {}

    def flat(self, tensors: Sequence[Tensor]) -> list[Any]:
        """What the graph returns for its flat inputs, flat."""
        with torch.no_grad():
            return list(self.run(*tensors, enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        """See ``fx.Interpreter``."""
        if is_call(n, *GROUPING) or (is_call(n, operator.getitem) and is_call(n.args[0], *GROUPING)):
            return self._grouping(n)
        if is_call(n, *RECORDED) and not n.kwargs:
            args, _ = self.fetch_args_kwargs_from_env(n)
            return self._see(Layer(n, tuple(args)))
        return super().run_node(n)

    def _grouping(self, n: fx.Node) -> Any:
        args, _ = self.fetch_args_kwargs_from_env(n)
        if is_call(n, HASH):
            x, planes, settings, *window = args
            steered = self._settings.get(n.meta["layer"])
            return Grouping(x, planes, settings if steered is None else steered.pack(), tuple(window))
        if is_call(n, GROUP):
            return args[1]._replace(norm=args[2], merge=args[-2], skip=args[-1])
        return args[1] if is_call(n, MERGE) else args[0]
