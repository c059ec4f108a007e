"""Resizing and padding of images as linear maps of rows and columns, read off PyTorch's own operators."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import shape_of


def on_axis(node: fx.Node, values: Tensor, axis: int) -> Tensor:
    """What ``node`` makes of (1, C, size, size) images that vary along one axis, (C, new size): axis 0 is the rows."""
    height, width = shape_of(node.args[0])[2:]  # type: ignore[arg-type]
    image = values[None, :, :, None] if axis == 0 else values[None, :, None, :]
    resized = node.target(image.expand(1, len(values), height, width).contiguous(), *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return resized[0, :, :, 0] if axis == 0 else resized[0, :, 0, :]


def axis_map(node: fx.Node, axis: int) -> Tensor:
    """The linear map (new size, old size) that a resizing is along the rows (axis 0) or columns (axis 1)."""
    size = shape_of(node.args[0])[2 + axis]  # type: ignore[arg-type]
    return on_axis(node, torch.eye(size), axis).T
