"""The bound on the error that merging and dropping make, known while they are done."""

from __future__ import annotations

import math

from torch import Tensor


def error_bound(windows: Tensor, rebuilt: Tensor, filter_norm: Tensor, taps: int) -> Tensor:
    """Bound the 2-norm of each patch's output error: sqrt(kh * kw) * sum over c of |F_c| |P_c - P̂_c|.

    For one channel the output error is a sum over the kernel's taps of the shifted window error times that tap of
    the filters, at most |P_c - P̂_c| times the sum of the taps' norms, which is at most sqrt(kh * kw) |F_c|
    (Cauchy-Schwarz). It holds in exact arithmetic: the rounding of the convolution itself comes on top. A patch
    with NaN or infinity is computed exactly: its bound is 0, as of any patch in which nothing is merged or dropped.

    Args:
        windows: (..., C, q), the windows P_c.
        rebuilt: (..., C, q), what the convolution took them to be, P̂_c.
        filter_norm: (C,), |F_c|.
        taps: kh * kw.

    Returns:
        (...), one number a patch, over all its output channels and pixels.
    """
    exact = ((windows == rebuilt) | windows.isnan()).all(dim=-1)
    loss = (windows - rebuilt).square().sum(dim=-1).sqrt() * filter_norm
    return math.sqrt(taps) * loss.masked_fill(exact, 0).sum(dim=-1)
