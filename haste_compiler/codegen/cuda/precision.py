"""How a card forms products."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

Precision = Literal["fp32", "tf32", "bf16"]
"""How products are formed: by the CUDA cores, or by the tensor cores from operands rounded to TF32 or bfloat16. Sums
are float32 in all of them."""


class Precisions(NamedTuple):
    """The precision of the products of convolutions, and of linear layers."""

    convolution: Precision = "fp32"
    linear: Precision = "fp32"


def choose_precisions(precision: str | None) -> Precisions:
    """The precision that a user asked for; None: what PyTorch would use on a card, of each kind of layer."""
    if precision is not None:
        return Precisions(cast(Precision, precision), cast(Precision, precision))
    import torch

    # Not allow_tf32: reading it fails where somebody has set these, which have replaced it.
    convolution = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # made at import
    linear = torch.backends.cuda.matmul.fp32_precision
    return Precisions("tf32" if convolution == "tf32" else "fp32", "tf32" if linear == "tf32" else "fp32")
