"""A layer of bfloat16 in eager PyTorch, and the plain layer that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from haste_compiler.methods.bfloat16.ops.conv2d import BFloat16ConvCall
from haste_compiler.methods.bfloat16.ops.linear import BFLOAT16_LINEAR, BFloat16LinearCall
from haste_compiler.methods.bfloat16.ops.winograd import BFLOAT16_WINOGRAD, BFloat16WinogradCall
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR

PLAIN = "plain_weight"
"""Where a node's ``meta`` keeps the filters before they were rounded."""

Call = BFloat16ConvCall | BFloat16LinearCall | BFloat16WinogradCall

_CALLS: Mapping[Any, type[Call]] = {BFLOAT16_LINEAR: BFloat16LinearCall, BFLOAT16_WINOGRAD: BFloat16WinogradCall}


@dataclass(frozen=True)
class Replayed:
    """See ``OwnedLayer``.

    Attributes:
        call: the layer's own.
        values: of every node that it reads.
        weight: the filters before they were rounded.
    """

    call: Call
    values: Mapping[fx.Node, Any]
    weight: Tensor

    @classmethod
    def of(cls, node: fx.Node, values: Mapping[fx.Node, Any]) -> Replayed:
        """The layer of a node; ``values`` as of ``Method.replayed``."""
        return cls(_CALLS.get(node.target, BFloat16ConvCall).of(node), values, node.meta[PLAIN])

    @property
    def x(self) -> Tensor:
        """See ``OwnedLayer``."""
        read: Tensor = self.values[self.call.x]
        return read

    @property
    def patch(self) -> tuple[int, int] | None:
        """See ``OwnedLayer``: transformed values are rounded by tiles."""
        return (self.call.size,) * 2 if isinstance(self.call, BFloat16WinogradCall) else None

    def compute(self, x: Tensor | None = None) -> Tensor:
        """See ``OwnedLayer``."""
        values = self.values if x is None else {**self.values, self.call.x: x}
        result: Tensor = self.call.OP(*map_arg(self.call.args, lambda node: values[node]))
        return result

    def plain(self) -> Tensor:
        """See ``OwnedLayer``."""
        call, x = self.call, self.x
        bias, residual = (None if each is None else self.values[each] for each in (call.bias, call.residual))
        if isinstance(call, BFloat16LinearCall):
            return LINEAR(x, self.weight, bias, residual, call.activation)  # type: ignore[no-any-return]
        window: Any = call.window if isinstance(call, BFloat16ConvCall) else ([1, 1], call.padding, [1, 1], 1)
        return CONV2D(x, self.weight, bias, residual, *window, call.activation)  # type: ignore[no-any-return]
