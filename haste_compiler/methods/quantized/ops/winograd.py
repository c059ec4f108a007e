"""``haste::quantized_winograd``: a 3×3 convolution of 8-bit integers by Winograd's minimal filtering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.reference.winograd import winograd_integers
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import Ints


@torch.library.custom_op(
    "haste::quantized_winograd",
    mutates_args=(),
    schema="(Tensor x, Tensor transformed, Tensor transformed_scale, Tensor weight, Tensor scale, Tensor? bias, "
    "Tensor? residual, int[] padding, str activation, int bits=8) -> Tensor",
)
def quantized_winograd(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    transformed: Tensor,
    transformed_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    padding: Ints,
    activation: str,
    bits: int = BITS,
) -> Tensor:
    """Convolve integers: ``activation(conv(x) + bias + residual)``, (N, K, OH, OW) from float32 (N, C, H, W).

    ``transformed`` is int8 (K, C, m + 2, m + 2), by ``transformed_scale`` float32 (K, m + 2, m + 2); ``weight`` int8
    (K, C, 3, 3), by ``scale`` float32 (K,), is for tiles that are not finite. ``bits`` are the
    transformed inputs'. See ``reference.winograd``.
    """
    geometry = _geometry(x.shape, weight.shape, padding)
    size = transformed.shape[2] - 2
    y = winograd_integers(x, (transformed, transformed_scale), (weight, scale), geometry, size, bits)
    y = y if bias is None else y + bias[:, None, None]
    return apply_epilogue(y, residual, activation)


@quantized_winograd.register_fake
def _(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    transformed: Tensor,
    transformed_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    padding: Ints,
    activation: str,
    bits: int = BITS,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *_geometry(x.shape, weight.shape, padding).output_size)


def _geometry(x: Any, weight: Any, padding: Ints) -> ConvGeometry:
    return window_geometry(x[1], x[2:], (weight[2:], (1, 1), padding, (1, 1), 1, (1, 1)), weight[0])


QUANTIZED_WINOGRAD = torch.ops.haste.quantized_winograd.default


@dataclass(frozen=True)
class QuantizedWinogradCall(OpCall):
    """A call of ``haste::quantized_winograd``; ``padding`` is (top, bottom, left, right)."""

    OP: ClassVar[Any] = QUANTIZED_WINOGRAD

    x: fx.Node
    transformed: fx.Node
    transformed_scale: fx.Node
    weight: fx.Node
    scale: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    padding: Ints
    activation: str
    bits: int = BITS

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's geometry."""
        return _geometry(shape_of(self.x), shape_of(self.weight), self.padding)

    @property
    def size(self) -> int:
        """m, the side of a tile of outputs."""
        return shape_of(self.transformed)[2] - 2
