"""``haste::conv2d``: a plain convolution with an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall

Ints = Sequence[int]


@torch.library.custom_op(
    "haste::conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation) -> Tensor",
)
def conv2d(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> Tensor:
    """Convolve plainly: ``activation(conv(x) + bias + residual)``, (N, K, OH, OW) from (N, C, H, W)."""
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        y = F.conv2d(x, weight, bias, list(stride), [top, left], list(dilation), groups)
    else:
        y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, list(stride), 0, list(dilation), groups)
    return apply_epilogue(y, residual, activation)


@conv2d.register_fake
def _(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> Tensor:
    window = (weight.shape[2:], stride, padding, dilation, groups, (1, 1))
    geometry = window_geometry(x.shape[1], x.shape[2:], window, weight.shape[0])
    return x.new_empty(x.shape[0], weight.shape[0], *geometry.output_size)


CONV2D = torch.ops.haste.conv2d.default

WINOGRAD = "winograd"
"""Where a convolution node's ``meta`` keeps the largest side of Winograd's tiles that may compute it."""


@dataclass(frozen=True)
class ConvCall(OpCall):
    """A call of ``haste::conv2d``; ``padding`` is (top, bottom, left, right)."""

    OP: ClassVar[Any] = CONV2D

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    activation: str

    def geometry(self, patch: tuple[int, int] = (1, 1)) -> ConvGeometry:
        """The convolution's geometry, its output plane cut into patches of (height, width) ``patch``."""
        channels, size = shape_of(self.x)[1], shape_of(self.x)[2:]
        filters, _, *kernel = shape_of(self.weight)
        window = (kernel, self.stride, self.padding, self.dilation, self.groups, patch)
        return window_geometry(channels, size, window, filters)
