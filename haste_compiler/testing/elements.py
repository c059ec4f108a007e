"""Which elements of a tensor differ, in words."""

from __future__ import annotations

import torch
from torch import Tensor

_FEW = 4
"""As many places along an axis are named."""

_AXES = {4: ("image", "channel", "row", "column"), 2: ("row", "column")}


def describe_difference(expected: Tensor, found: Tensor, differing: Tensor) -> str:
    """Say how many elements differ, where, and the largest difference.

    Args:
        expected, found: of the same shape; real numbers.
        differing: bool, of that shape; at least one is true.
    """
    mine, theirs = expected.detach().cpu().double(), found.detach().cpu().double()
    error = torch.where(differing.cpu(), (mine - theirs).abs().nan_to_num(torch.inf, torch.inf), -1.0)
    place = torch.unravel_index(error.flatten().argmax(), error.shape)
    index = ", ".join(str(int(each)) for each in place)
    where = _where(differing)
    return (
        f"{int(differing.sum()):,} of {differing.numel():,} elements differ{where}; "
        f"most at [{index}]: {float(theirs[place]):.6g} instead of {float(mine[place]):.6g}"
    )


def _where(differing: Tensor) -> str:
    """Along which axes only a few places are concerned."""
    names = _AXES.get(differing.dim(), tuple(f"axis {axis}" for axis in range(differing.dim())))
    found = []
    for axis, name in enumerate(names):
        hit = differing.movedim(axis, 0).flatten(1).any(dim=1).nonzero().flatten().tolist()
        if len(hit) <= min(_FEW, differing.shape[axis] - 1):
            plural = "s" if len(hit) > 1 else ""
            found.append(f"{name}{plural} {', '.join(map(str, hit))}")
    return f", all in {' and '.join(found)}" if found else ""
