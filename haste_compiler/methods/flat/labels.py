"""Labels: what is known of which pixels hold the same values.

A tensor (N, C, H, W) has labels (N, H, W), int32. Two pixels of an image that have the same label hold the same values
in all channels, to the bit. Where nothing is known of an image its first label is ``UNKNOWN``, and the others mean
nothing.
"""

UNKNOWN = -1
"""The first label of an image of which nothing is known."""

PADDING = -2
"""What stands for the label of a pixel outside the image."""

SIDE = 4
"""Of a tile of outputs; Winograd's tiles where that algorithm has others."""

HEADS = 3
"""As many tiles of an image, those with the most copies, are compared with all others."""

MOST_COMPUTED = (7, 8)
"""Numerator and denominator of the share of an image's tiles above which all are computed, and labels end."""

LEAST_EVEN = (1, 16)
"""Of the share of a network's input whose pixels are as their left neighbours, below which it gets no labels."""

MOST_VALUES = 1 << 12
"""Different pixels of an input image that others can be like; those that come after them are alone."""
