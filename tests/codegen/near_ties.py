"""Telling a wrong decision of a kernel from one that rounding may make either way."""

from torch import Tensor

from tests.methods.haste.reference import Layer, decide, to_array


def check_near_ties(differing: Tensor, x: Tensor, norms: Tensor, planes: Tensor, layer: Layer, name: str) -> int:
    """Check that the patches a kernel computed otherwise than the operator each have a test within rounding of a tie.

    Args:
        differing: bool (N, PH, PW).
        x: (N, C, H, W), what the layer read.
        norms: (C,), |F_c|.
        planes: (at least as many as in use, q).
        layer: its shape and settings.
        name: for the message.

    Returns:
        How many patches differ.
    """
    norm, hyperplanes = to_array(norms), to_array(planes)
    for n, row, column in differing.nonzero().tolist():
        patch = decide(to_array(x[n]), norm, hyperplanes, layer, row, column)
        assert patch.near_tie, f"{name}, patch {(n, row, column)}: no test is near a tie, the loop has {patch.slot}"
    return int(differing.sum())
