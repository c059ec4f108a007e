"""``haste::bfloat16_linear``: a linear layer of bfloat16 with an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import row_geometry
from haste_compiler.methods.bfloat16.reference.direct import convolve_rounded
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall


@torch.library.custom_op(
    "haste::bfloat16_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str activation) -> Tensor",
)
def bfloat16_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
) -> Tensor:
    """``activation(x @ weight.T + bias + residual)``, (..., K) from float32 (..., C).

    ``weight`` is bfloat16 (K, C); a 1×1 convolution of a row of pixels, see ``reference.direct``.
    """
    rows = x.reshape(-1, x.shape[-1]).T[None, :, None]
    geometry = row_geometry(x.shape[-1], weight.shape[0], rows.shape[3])
    y = convolve_rounded(rows, weight[:, :, None, None], geometry)
    y = y[0, :, 0].T.reshape(*x.shape[:-1], weight.shape[0])
    return apply_epilogue(y if bias is None else y + bias, residual, activation)


@bfloat16_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


BFLOAT16_LINEAR = torch.ops.haste.bfloat16_linear.default


@dataclass(frozen=True)
class BFloat16LinearCall(OpCall):
    """A call of ``haste::bfloat16_linear``."""

    OP: ClassVar[Any] = BFLOAT16_LINEAR

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    activation: str
