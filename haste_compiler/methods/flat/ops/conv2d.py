"""``haste::flat_conv2d``: a convolution that computes tiles with alike windows once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.flat.reference.tiles import copy_tiles
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import Ints
from haste_compiler.ops.conv2d import conv2d as plain_conv2d


@torch.library.custom_op(
    "haste::flat_conv2d",
    mutates_args=(),
    schema="(Tensor x, Tensor labels, Tensor weight, Tensor? bias, Tensor? slope, Tensor? residual, "
    "Tensor? residual_labels, Tensor settings, int[] stride, int[] padding, int[] dilation, int groups, "
    "str activation) -> (Tensor, Tensor)",
)
def flat_conv2d(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    residual_labels: Tensor | None,
    settings: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """Convolve: ``prelu(activation(conv(x) + bias + residual), slope)``, (N, K, OH, OW) from (N, C, H, W), and labels.

    Args:
        x: what is convolved.
        labels: of x, (N, H, W) int32.
        weight: (K, C / groups, kh, kw).
        bias: (K,).
        slope: (1,) or (K,), by which outputs below zero are multiplied; None: they are not.
        residual: (N, K, OH, OW).
        residual_labels: of the residual, (N, OH, OW) int32; given if it is.
        settings: float32 (1,), the tolerance of tiles.
        stride, padding, dilation, groups, activation: as of ``haste::conv2d``.

    Returns:
        Outputs, and their labels (N, OH, OW) int32, see ``reference.tiles``.
    """
    y = plain_conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation)
    if slope is not None:
        y = torch.prelu(y, slope)
    geometry = _geometry(x.shape, weight.shape, (stride, padding, dilation, groups))
    added = [None] * len(x) if residual_labels is None else list(residual_labels.cpu())
    made = [
        copy_tiles(image, known, other, geometry, float(settings))
        for image, known, other in zip(y, labels.cpu(), added, strict=True)
    ]
    return torch.stack([each.y for each in made]), torch.stack([each.labels for each in made]).to(x.device)


@flat_conv2d.register_fake
def _(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    residual_labels: Tensor | None,
    settings: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
) -> tuple[Tensor, Tensor]:
    geometry = _geometry(x.shape, weight.shape, (stride, padding, dilation, groups))
    y = x.new_empty(x.shape[0], weight.shape[0], *geometry.output_size)
    return y, labels.new_empty(x.shape[0], *geometry.output_size)


def _geometry(x: Any, weight: Any, window: tuple[Ints, Ints, Ints, int]) -> ConvGeometry:
    return window_geometry(x[1], x[2:], (weight[2:], *window, (1, 1)), weight[0])


FLAT_CONV2D = torch.ops.haste.flat_conv2d.default


@dataclass(frozen=True)
class FlatConvCall(OpCall):
    """A call of ``haste::flat_conv2d``; ``padding`` is (top, bottom, left, right)."""

    OP: ClassVar[Any] = FLAT_CONV2D

    x: fx.Node
    labels: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    slope: fx.Node | None
    residual: fx.Node | None
    residual_labels: fx.Node | None
    settings: fx.Node
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    activation: str

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's geometry."""
        window = (self.stride, self.padding, self.dilation, self.groups)
        return _geometry(shape_of(self.x), shape_of(self.weight), window)
