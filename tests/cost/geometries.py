"""Convolutions for the tests of the cost model."""

from haste_compiler.graph.geometry import ConvGeometry


def square(channels: int, filters: int, side: int, patch: int) -> ConvGeometry:
    """A 3×3 convolution of stride 1 that keeps the image's size."""
    return ConvGeometry(channels, filters, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (side, side), (patch, patch))
