"""``haste::convolve``: merged windows convolved with merged filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.haste.ops.window import Ints
from haste_compiler.methods.haste.reference.convolution import convolve_windows, place_patches
from haste_compiler.methods.haste.reference.merging import Groups, rebuild_windows
from haste_compiler.methods.haste.reference.windows import chunks, window_mask
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall


@torch.library.custom_op(
    "haste::convolve",
    mutates_args=(),
    schema="(Tensor merged, Tensor slot, Tensor coeff, Tensor offset, Tensor weight, Tensor? bias, Tensor? residual, "
    "int[] input_size, int[] stride, int[] padding, int[] dilation, int groups, int[] patch, str activation) -> Tensor",
)
def convolve(  # noqa: PLR0913 - an operator's schema
    merged: Tensor,
    slot: Tensor,
    coeff: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
    activation: str,
) -> Tensor:
    """Convolve merged windows (N, PH, PW, C, qh, qw) with merged filters: (N, K, OH, OW), epilogue applied."""
    window = (weight.shape[2:], stride, padding, dilation, groups, patch)
    geometry = window_geometry(merged.shape[3], input_size, window, weight.shape[0])
    masks = window_mask(geometry, merged.device)
    output = merged.new_empty(merged.shape[0], weight.shape[0], *geometry.output_size)
    for images, rows in chunks(merged):
        piece = merged[images, rows]
        parts = Groups(*(part[images, rows].flatten(0, 2) for part in (slot, coeff, offset)))
        mask = masks[rows].expand(*piece.shape[:3], -1).flatten(0, 2)
        rebuilt = rebuild_windows(piece.flatten(4).flatten(0, 2), parts, mask)
        patches = convolve_windows(rebuilt, weight, bias, geometry)
        place_patches(output[images], patches.unflatten(0, piece.shape[:3]), rows.start or 0)
    return apply_epilogue(output, residual, activation)


@convolve.register_fake
def _(  # noqa: PLR0913 - an operator's schema
    merged: Tensor,
    slot: Tensor,
    coeff: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    patch: Ints,
    activation: str,
) -> Tensor:
    window = (weight.shape[2:], stride, padding, dilation, groups, patch)
    geometry = window_geometry(merged.shape[3], input_size, window, weight.shape[0])
    return merged.new_empty(merged.shape[0], weight.shape[0], *geometry.output_size)


CONVOLVE = torch.ops.haste.convolve.default


@dataclass(frozen=True)
class ConvolveCall(OpCall):
    """A call of ``haste::convolve``."""

    OP: ClassVar[Any] = CONVOLVE

    merged: fx.Node
    slot: fx.Node
    coeff: fx.Node
    offset: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    input_size: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    patch: Ints
    activation: str

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's geometry."""
        filters, _, *kernel = shape_of(self.weight)
        window = (kernel, self.stride, self.padding, self.dilation, self.groups, self.patch)
        return window_geometry(shape_of(self.slot)[-1], self.input_size, window, filters)
