"""``haste::affine``: a scale and a shift of every channel of tensors that are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.ops.activation import apply_activation
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::affine", mutates_args=())
def affine(parts: Sequence[Tensor], scale: Tensor, shift: Tensor, activation: str) -> Tensor:
    """``activation(scale * x + shift)`` for the parts joined along their channels.

    Args:
        parts: (N, Cp, H, W) each, C channels in all.
        scale: (C,).
        shift: (C,).
        activation: as :func:`haste_compiler.ops.activation.apply_activation` names it.

    Returns:
        (N, C, H, W).
    """
    x = torch.cat(list(parts), 1) * scale[:, None, None] + shift[:, None, None]
    return apply_activation(x, activation)


@affine.register_fake
def _(parts: Sequence[Tensor], scale: Tensor, shift: Tensor, activation: str) -> Tensor:
    n, _, h, w = parts[0].shape
    return parts[0].new_empty((n, scale.shape[0], h, w))


AFFINE = torch.ops.haste.affine.default


@dataclass(frozen=True)
class AffineCall(OpCall):
    """A call of ``haste::affine``."""

    OP: ClassVar[Any] = AFFINE

    parts: list[fx.Node]
    scale: fx.Node
    shift: fx.Node
    activation: str
