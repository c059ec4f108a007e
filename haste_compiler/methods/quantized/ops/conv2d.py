"""``haste::quantized_conv2d``: a convolution of 8-bit integers with an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.reference.direct import convolve_integers
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import Ints


@torch.library.custom_op(
    "haste::quantized_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor scale, Tensor? bias, Tensor? residual, int[] stride, int[] padding, "
    "int[] dilation, int groups, str activation, bool nonnegative, int bits=8, bool ternary=False) -> Tensor",
)
def quantized_conv2d(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
    nonnegative: bool,
    bits: int = BITS,
    ternary: bool = False,
) -> Tensor:
    """Convolve integers: ``activation(conv(x) + bias + residual)``, (N, K, OH, OW) from float32 (N, C, H, W).

    ``weight`` is int8 (K, C / groups, kh, kw), ``scale`` float32 (K,), ``bits`` those of x; see ``reference.direct``.
    ``ternary`` says that all weights are -1, 0 or 1.
    """
    geometry = _geometry(x.shape, weight.shape, (stride, padding, dilation, groups))
    y = convolve_integers(x, weight, scale, geometry, nonnegative=nonnegative, bits=bits)
    y = y if bias is None else y + bias[:, None, None]
    return apply_epilogue(y, residual, activation)


@quantized_conv2d.register_fake
def _(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
    nonnegative: bool,
    bits: int = BITS,
    ternary: bool = False,
) -> Tensor:
    geometry = _geometry(x.shape, weight.shape, (stride, padding, dilation, groups))
    return x.new_empty(x.shape[0], weight.shape[0], *geometry.output_size)


def _geometry(x: Any, weight: Any, window: tuple[Ints, Ints, Ints, int]) -> ConvGeometry:
    return window_geometry(x[1], x[2:], (weight[2:], *window, (1, 1)), weight[0])


QUANTIZED_CONV2D = torch.ops.haste.quantized_conv2d.default


@dataclass(frozen=True)
class QuantizedConvCall(OpCall):
    """A call of ``haste::quantized_conv2d``; ``padding`` is (top, bottom, left, right)."""

    OP: ClassVar[Any] = QUANTIZED_CONV2D

    x: fx.Node
    weight: fx.Node
    scale: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    activation: str
    nonnegative: bool
    bits: int = BITS
    ternary: bool = False

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's geometry."""
        return _geometry(shape_of(self.x), shape_of(self.weight), self.window)

    @property
    def window(self) -> tuple[Ints, Ints, Ints, int]:
        """Stride, padding, dilation and groups."""
        return self.stride, self.padding, self.dilation, self.groups
