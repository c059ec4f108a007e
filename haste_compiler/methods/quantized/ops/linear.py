"""``haste::quantized_linear``: a linear layer of 8-bit integers with an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import row_geometry
from haste_compiler.methods.quantized.bits import BITS
from haste_compiler.methods.quantized.reference.direct import convolve_integers
from haste_compiler.ops.activation import apply_epilogue
from haste_compiler.ops.call import OpCall


@torch.library.custom_op(
    "haste::quantized_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor scale, Tensor? bias, Tensor? residual, str activation, bool nonnegative, "
    "int bits=8, bool ternary=False) -> Tensor",
)
def quantized_linear(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    nonnegative: bool,
    bits: int = BITS,
    ternary: bool = False,
) -> Tensor:
    """``activation(x @ weight.T + bias + residual)``, (..., K) from float32 (..., C); every row has its scale.

    ``weight`` is int8 (K, C), ``scale`` float32 (K,), ``bits`` those of x; ``ternary`` says that all weights are -1, 0
    or 1. It is a 1×1 convolution of a row of pixels, see ``reference.direct``.
    """
    rows = x.reshape(-1, x.shape[-1]).T[None, :, None]
    geometry = row_geometry(x.shape[-1], weight.shape[0], rows.shape[3])
    y = convolve_integers(rows, weight[:, :, None, None], scale, geometry, nonnegative=nonnegative, bits=bits)
    y = y[0, :, 0].T.reshape(*x.shape[:-1], weight.shape[0])
    return apply_epilogue(y if bias is None else y + bias, residual, activation)


@quantized_linear.register_fake
def _(  # noqa: PLR0913  (an operator's schema)
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    nonnegative: bool,
    bits: int = BITS,
    ternary: bool = False,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


QUANTIZED_LINEAR = torch.ops.haste.quantized_linear.default


@dataclass(frozen=True)
class QuantizedLinearCall(OpCall):
    """A call of ``haste::quantized_linear``."""

    OP: ClassVar[Any] = QUANTIZED_LINEAR

    x: fx.Node
    weight: fx.Node
    scale: fx.Node
    bias: fx.Node | None
    residual: fx.Node | None
    activation: str
    nonnegative: bool
    bits: int = BITS
    ternary: bool = False
