"""Hashing: a code for every channel of a window, one bit a hyperplane."""

from __future__ import annotations

import torch
from torch import Tensor


def hash_windows(windows: Tensor, planes: Tensor, groups: int) -> Tensor:
    """Tell on which side of each hyperplane every channel lies, seen from the mean of its patch's channels.

    ``bit_l = <P_c - m, v_l> > 0`` with m the mean of P_c over the channels of the convolution group, computed as
    ``<P_c, v_l> - <m, v_l>``. Sums are taken in float64 and rounded: equal windows get equal codes whatever the
    order in which a matrix product adds.

    Args:
        windows: (B, C, q), B patches.
        planes: (L, q), the hyperplanes in use.
        groups: convolution groups.

    Returns:
        int32 (B, C), bit l of a code from hyperplane l.
    """
    dots = (windows.double() @ planes.double().T).float().unflatten(1, (groups, -1))
    bits = dots > dots.double().mean(dim=2, keepdim=True)
    values = 2 ** torch.arange(len(planes), device=planes.device)
    return (bits * values).sum(dim=-1).flatten(1).int()
