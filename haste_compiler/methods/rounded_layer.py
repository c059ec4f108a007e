"""A layer whose filters a method rounded, in eager PyTorch, and the plain layer that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx
from torch.fx.node import map_arg

from haste_compiler.graph.nodes import get_tensor
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.ops.linear import LINEAR, LinearCall

PLAIN = "plain"
"""Where a node's ``meta`` keeps what the plain layer has in their place, as ``Plain``."""


class Plain(NamedTuple):
    """The filters and bias of a layer before they were rounded and corrected."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, gm: fx.GraphModule, call: ConvCall | LinearCall) -> Plain:
        """Those of a plain layer's call; its bias is constant too."""
        return cls(get_tensor(gm, call.weight), None if call.bias is None else get_tensor(gm, call.bias))


@dataclass(frozen=True)
class RoundedLayer:
    """See ``OwnedLayer``.

    Attributes:
        call: the layer's own, an ``OpCall`` that has x, bias, residual and activation.
        values: of every node that it reads.
        original: the plain layer's filters and bias.
        window: stride, padding, dilation and groups; None: a linear layer.
        tile: side of the tiles of outputs by which values are rounded; 0: there are none.
    """

    call: Any
    values: Mapping[fx.Node, Any]
    original: Plain
    window: tuple[Any, ...] | None = None
    tile: int = 0

    @property
    def x(self) -> Tensor:
        """See ``OwnedLayer``."""
        read: Tensor = self.values[self.call.x]
        return read

    @property
    def patch(self) -> tuple[int, int] | None:
        """See ``OwnedLayer``."""
        return (self.tile, self.tile) if self.tile else None

    def compute(self, x: Tensor | None = None) -> Tensor:
        """See ``OwnedLayer``."""
        values = self.values if x is None else {**self.values, self.call.x: x}
        result: Tensor = self.call.OP(*map_arg(self.call.args, lambda node: values[node]))
        return result

    def plain(self) -> Tensor:
        """See ``OwnedLayer``."""
        call, x = self.call, self.x
        residual = None if call.residual is None else self.values[call.residual]
        weight, bias = self.original
        if self.window is None:
            return LINEAR(x, weight, bias, residual, call.activation)  # type: ignore[no-any-return]
        return CONV2D(x, weight, bias, residual, *self.window, call.activation)  # type: ignore[no-any-return]
