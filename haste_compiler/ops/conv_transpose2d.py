"""``haste::conv_transpose2d``: a transposed convolution with an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from haste_compiler.graph.nodes import shape_of
from haste_compiler.graph.transposed import TransposedGeometry, transposed_geometry
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall

Ints = Sequence[int]


@torch.library.custom_op(
    "haste::conv_transpose2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, "
    "int[] output_padding, int[] dilation, int groups, str activation) -> Tensor",
)
def conv_transpose2d(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> Tensor:
    """Compute ``activation(conv_transpose(x) + bias + residual)``, (N, K, OH, OW) from (N, C, H, W).

    ``weight`` is (C, K / groups, kh, kw), as PyTorch has it.
    """
    y = F.conv_transpose2d(x, weight, bias, list(stride), list(padding), list(output_padding), groups, list(dilation))
    return apply_epilogue(y, residual, activation)


@conv_transpose2d.register_fake
def _(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> Tensor:
    numbers = (weight.shape[2:], stride, padding, output_padding, dilation, groups)
    geometry = transposed_geometry(x.shape[1], x.shape[2:], numbers, weight.shape[1])
    return x.new_empty(x.shape[0], geometry.out_channels, *geometry.output_size)


CONV_TRANSPOSE2D = torch.ops.haste.conv_transpose2d.default


@dataclass(frozen=True)
class ConvTransposeCall(OpCall):
    """A call of ``haste::conv_transpose2d``; numbers are (vertical, horizontal)."""

    OP: ClassVar[Any] = CONV_TRANSPOSE2D

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    stride: Ints
    padding: Ints
    output_padding: Ints
    dilation: Ints
    groups: int
    activation: str

    def geometry(self) -> TransposedGeometry:
        """The shape of the convolution."""
        channels, size = shape_of(self.x)[1], shape_of(self.x)[2:]
        _, group_filters, *kernel = shape_of(self.weight)
        numbers = (kernel, self.stride, self.padding, self.output_padding, self.dilation, self.groups)
        return transposed_geometry(channels, size, numbers, group_filters)
