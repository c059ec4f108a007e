"""``haste::bfloat16_conv2d``: a convolution of bfloat16 with an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.bfloat16.reference.direct import convolve_rounded
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import Ints


@torch.library.custom_op(
    "haste::bfloat16_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, "
    "int[] dilation, int groups, str activation) -> Tensor",
)
def bfloat16_conv2d(  # noqa: PLR0913  (an operator's schema)
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
    """Convolve: ``activation(conv(x) + bias + residual)``, (N, K, OH, OW) from float32 (N, C, H, W).

    ``weight`` is bfloat16 (K, C / groups, kh, kw); see ``reference.direct``.
    """
    geometry = _geometry(x.shape, weight.shape, (stride, padding, dilation, groups))
    y = convolve_rounded(x, weight, geometry)
    y = y if bias is None else y + bias[:, None, None]
    return apply_epilogue(y, residual, activation)


@bfloat16_conv2d.register_fake
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
    geometry = _geometry(x.shape, weight.shape, (stride, padding, dilation, groups))
    return x.new_empty(x.shape[0], weight.shape[0], *geometry.output_size)


def _geometry(x: Any, weight: Any, window: tuple[Ints, Ints, Ints, int]) -> ConvGeometry:
    return window_geometry(x[1], x[2:], (weight[2:], *window, (1, 1)), weight[0])


BFLOAT16_CONV2D = torch.ops.haste.bfloat16_conv2d.default


@dataclass(frozen=True)
class BFloat16ConvCall(OpCall):
    """A call of ``haste::bfloat16_conv2d``; ``padding`` is (top, bottom, left, right)."""

    OP: ClassVar[Any] = BFLOAT16_CONV2D

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    activation: str

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's geometry."""
        return _geometry(shape_of(self.x), shape_of(self.weight), self.window)

    @property
    def window(self) -> tuple[Ints, Ints, Ints, int]:
        """Stride, padding, dilation and groups."""
        return self.stride, self.padding, self.dilation, self.groups
