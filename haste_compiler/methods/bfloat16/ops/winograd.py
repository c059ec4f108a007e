"""``haste::bfloat16_winograd``: a 3×3 convolution of bfloat16 by Winograd's minimal filtering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.bfloat16.reference.winograd import winograd_rounded
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import Ints


@torch.library.custom_op(
    "haste::bfloat16_winograd",
    mutates_args=(),
    schema="(Tensor x, Tensor transformed, Tensor weight, Tensor? bias, Tensor? residual, "
    "int[] padding, str activation) -> Tensor",
)
def bfloat16_winograd(
    x: Tensor,
    transformed: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    padding: Ints,
    activation: str,
) -> Tensor:
    """Convolve: ``activation(conv(x) + bias + residual)``, (N, K, OH, OW) from float32 (N, C, H, W).

    ``transformed`` is bfloat16 (K, C, m + 2, m + 2); ``weight``, bfloat16 (K, C, 3, 3), is for tiles that are not
    finite; see ``reference.winograd``.
    """
    geometry = _geometry(x.shape, weight.shape, padding)
    size = transformed.shape[2] - 2
    y = winograd_rounded(x, transformed, weight, geometry, size)
    y = y if bias is None else y + bias[:, None, None]
    return apply_epilogue(y, residual, activation)


@bfloat16_winograd.register_fake
def _(
    x: Tensor,
    transformed: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    padding: Ints,
    activation: str,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *_geometry(x.shape, weight.shape, padding).output_size)


def _geometry(x: Any, weight: Any, padding: Ints) -> ConvGeometry:
    return window_geometry(x[1], x[2:], (weight[2:], (1, 1), padding, (1, 1), 1, (1, 1)), weight[0])


BFLOAT16_WINOGRAD = torch.ops.haste.bfloat16_winograd.default


@dataclass(frozen=True)
class BFloat16WinogradCall(OpCall):
    """A call of ``haste::bfloat16_winograd``; ``padding`` is (top, bottom, left, right)."""

    OP: ClassVar[Any] = BFLOAT16_WINOGRAD

    x: fx.Node
    transformed: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    padding: Ints
    activation: str

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's geometry."""
        return _geometry(shape_of(self.x), shape_of(self.weight), self.padding)

    @property
    def size(self) -> int:
        """m, the side of a tile of outputs."""
        return shape_of(self.transformed)[2] - 2
