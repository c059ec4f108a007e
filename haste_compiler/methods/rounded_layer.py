"""A layer whose filters a method rounded, in eager PyTorch, and the plain layer that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR

PLAIN = "plain_weight"
"""Where a node's ``meta`` keeps the filters before they were rounded."""


@dataclass(frozen=True)
class RoundedLayer:
    """See ``OwnedLayer``.

    Attributes:
        call: the layer's own, an ``OpCall`` that has x, bias, residual and activation.
        values: of every node that it reads.
        weight: the filters before they were rounded.
        window: stride, padding, dilation and groups; None: a linear layer.
        tile: side of the tiles of outputs by which values are rounded; 0: there are none.
    """

    call: Any
    values: Mapping[fx.Node, Any]
    weight: Tensor
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
        bias, residual = (None if each is None else self.values[each] for each in (call.bias, call.residual))
        if self.window is None:
            return LINEAR(x, self.weight, bias, residual, call.activation)  # type: ignore[no-any-return]
        return CONV2D(x, self.weight, bias, residual, *self.window, call.activation)  # type: ignore[no-any-return]
