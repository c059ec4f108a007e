"""Counting the multiply-adds that a HASTE convolution does, every overhead included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import Counts
from haste_compiler.methods.macs import MacCount


def count_macs(
    geometry: ConvGeometry,
    counts: ArrayLike,
    num_hyperplanes: int,
    merge: str,
    tolerance_on: bool,
    skip: str,
    nonzeros: int | None = None,
) -> MacCount:
    """Count the multiply-adds of one layer, by what they are spent on.

    Of its parts ``hashing`` is windows times the non-zero entries of the hyperplanes, ``centring`` means over the
    channels, ``norms`` window norms, where a tolerance or skipping needs them. ``coefficients`` are products of members
    and groups, and members' residuals. ``merge_inputs`` adds up windows, ``merge_filters`` filters. ``convolution``
    convolves what is left; ``means`` adds the means of dropped flat channels to the output.

    With q the window's pixels, L hyperplanes, C and K channels of one convolution group and o the outputs of a patch:
    hashing C L for each non-zero of a plane (q / 3 of them in the published draw), centring C q, norms C q; each time
    that a channel is merged q for adding it up, 2 q for its coefficient and q for its residual (where a channel leaves
    its group, the others are merged a second time); merging filters K kh kw for each channel merged into another,
    convolution K kh kw o a channel left, and K for each carried mean. Where a patch reads padding, means depend on the
    output pixel: flat channels are then merged like any others, K kh kw each, and convolved as one channel.

    Args:
        geometry: of the convolution, with its output channels.
        counts: integer (N, PH, PW, G, 6) as from ``count_channels``.
        num_hyperplanes: hyperplanes in use.
        merge: "mean" or "projection".
        tolerance_on: whether channels can leave their group.
        skip: "none", "zeros" or "flat".
        nonzeros: see ``HasteConfig``.
    """
    counted = np.asarray(counts, np.int64)
    images, rows, columns = counted.shape[:3]
    pixels = geometry.window_pixels
    filters = geometry.out_channels // geometry.groups * geometry.taps
    outputs, reads_padding = _patches(geometry)
    found = Counts.split(counted)
    windows = images * rows * columns * geometry.in_channels * pixels
    inside = found.flats * (filters // geometry.taps)
    across_edge = found.flats * filters + (found.flats > 0) * filters * outputs
    per_merge = (2 if merge == "projection" else 0) + (1 if tolerance_on else 0)
    return MacCount(
        dense=images * geometry.dense_macs,
        hashing=_hashing(windows, pixels, num_hyperplanes, nonzeros),
        centring=windows,
        norms=windows if tolerance_on or skip != "none" else 0,
        coefficients=pixels * per_merge * int(found.merges.sum()),
        merge_inputs=pixels * int(found.merges.sum()),
        merge_filters=filters * int((found.members - found.groups).sum()),
        convolution=filters * int((found.kept * outputs).sum()),
        means=int(np.where(reads_padding, across_edge, inside).sum()),
    )


def _hashing(windows: int, pixels: int, num_hyperplanes: int, nonzeros: int | None) -> int:
    """Products of windows that hold ``windows`` values in all, ``pixels`` each, and the planes' non-zeros."""
    if nonzeros is None:
        return windows * num_hyperplanes // 3
    return windows // pixels * num_hyperplanes * min(nonzeros, pixels)


def _patches(geometry: ConvGeometry) -> tuple[NDArray[Any], NDArray[Any]]:
    """Output pixels of each patch, and whether it reads padding: (PH, PW, 1) each."""
    rows, columns = geometry.patch_grid
    grid = [(row, column) for row in range(rows) for column in range(columns)]
    sizes = [geometry.patch_outputs(*patch) for patch in grid]
    outputs = np.array([height * width for height, width in sizes]).reshape(rows, columns, 1)
    return outputs, np.array([geometry.reads_padding(*patch) for patch in grid]).reshape(rows, columns, 1)
