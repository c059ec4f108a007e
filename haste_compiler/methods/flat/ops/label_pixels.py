"""``haste::label_pixels``: labels of a network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.flat.reference.pixels import label_image
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::label_pixels", mutates_args=(), schema="(Tensor x) -> Tensor")
def label_pixels(x: Tensor) -> Tensor:
    """Label the pixels of float32 (N, C, H, W): (N, H, W) int32, see ``labels`` and ``reference.pixels``."""
    return torch.stack([label_image(image) for image in x]).to(x.device)


@label_pixels.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], *x.shape[2:], dtype=torch.int32)


LABEL_PIXELS = torch.ops.haste.label_pixels.default


@dataclass(frozen=True)
class LabelPixelsCall(OpCall):
    """A call of ``haste::label_pixels``."""

    OP: ClassVar[Any] = LABEL_PIXELS

    x: fx.Node
