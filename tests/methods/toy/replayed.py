"""A convolution of rounded values in eager PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from haste_compiler.ops.conv2d import ConvCall
from tests.methods.toy.operator import ROUND, RoundCall


@dataclass(frozen=True)
class Replayed:
    """See ``OwnedLayer``.

    Attributes:
        conv: the layer's call, which reads rounded values.
        x: what is rounded.
        settings: float32 (1,).
        values: of what else the convolution reads.
    """

    conv: ConvCall
    x: Tensor
    settings: Tensor
    values: Mapping[fx.Node, Any]

    @classmethod
    def of(cls, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None) -> Replayed:
        """The layer of a node; arguments as of ``Method.replayed``."""
        conv = ConvCall.of(node)
        call = RoundCall.of(conv.x)
        settings = values[call.settings] if steered is None else torch.tensor(steered)
        return cls(conv, values[call.x], settings, values)

    @property
    def patch(self) -> None:
        """See ``OwnedLayer``."""
        return None

    def compute(self, x: Tensor | None = None) -> Tensor:
        """See ``OwnedLayer``."""
        return self._convolve(ROUND(self.x if x is None else x, self.settings))

    def plain(self) -> Tensor:
        """See ``OwnedLayer``."""
        return self._convolve(self.x)

    def _convolve(self, x: Tensor) -> Tensor:
        values = {**self.values, self.conv.x: x}
        result: Tensor = self.conv.OP(*map_arg(self.conv.args, lambda node: values[node]))
        return result
