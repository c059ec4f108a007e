"""Where labels come from, and which operators hand them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx

from haste_compiler.codegen.rules.pooling import POOLINGS
from haste_compiler.codegen.trusted import POINTWISE
from haste_compiler.graph.geometry import window_geometry
from haste_compiler.graph.nodes import argument, is_call, is_tensor, shape_of
from haste_compiler.ops.conv2d import CONV2D, ConvCall

aten = torch.ops.aten

Windows = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]
"""Kernel, stride, padding (top, bottom, left, right), dilation."""

_IMAGES = 4
"""Dimensions of a tensor of images."""

_OF_PIXELS = (*POINTWISE, aten.prelu.default, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def is_source(node: fx.Node) -> bool:
    """Whether a node's tensor can be labelled by itself: an input of float32 images, as many as were captured."""
    return node.op == "placeholder" and _is_images(node)


def _is_images(node: fx.Node) -> bool:
    if not is_tensor(node):
        return False
    value = node.meta["val"]
    fixed = not any(isinstance(size, torch.SymInt) for size in value.shape)
    return fixed and value.dtype == torch.float32 and value.dim() == _IMAGES and value.numel() > 0


def carried(node: fx.Node, known: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """The tensors whose labels, together, are a node's: pixels alike in all of them are alike in its own.

    Args:
        node: any.
        known: whether a tensor has labels.

    Returns:
        One or several tensors of the node's height and width; none: nothing is known of the node.
    """
    along_channels = is_call(node, aten.cat.default) and argument(node, 1, "dim", 0) == 1
    if not _is_images(node) or not (along_channels or is_call(node, *_OF_PIXELS)):
        return []
    images = [source for source in node.all_input_nodes if not _is_of_channels(source, node)]
    same = all(_is_images(each) and shape_of(each)[2:] == shape_of(node)[2:] and known(each) for each in images)
    return images if same else []


def _is_of_channels(source: fx.Node, node: fx.Node) -> bool:
    """Whether a tensor holds one number for all pixels of a channel, or of all channels, that a node makes."""
    if not is_tensor(source):
        return False
    if is_call(node, aten.prelu.default) and source is not node.args[0]:
        return True
    planes = shape_of(source)[-2:]
    return all(size == 1 for size in planes) and shape_of(node)[2:] != planes


def windows_of(node: fx.Node) -> tuple[fx.Node, Windows] | None:
    """The tensor, and its windows, from each of which a node makes a pixel, channel by channel; None: it doesn't.

    Whatever is outside the tensor must depend on where the pixel lies by how much of its window is outside alone.
    """
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node) or not _is_images(node) or not _is_images(x):
        return None
    windows: Windows | None = None
    if is_call(node, CONV2D):
        geometry = ConvCall.of(node).geometry()
        if geometry.is_depthwise and ConvCall.of(node).residual is None:
            windows = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    elif is_call(node, aten.max_pool2d.default):
        pooling = POOLINGS[node.target](node)
        top, left = pooling.padding
        windows = (pooling.kernel, pooling.stride, (top, top, left, left), pooling.dilation)
    elif is_call(node, aten.pad.default, aten.constant_pad_nd.default):
        left, right, top, bottom, *others = [*argument(node, 1, "pad"), 0, 0, 0, 0][:6]
        constant = is_call(node, aten.constant_pad_nd.default) or argument(node, 2, "mode", "constant") == "constant"
        if constant and not any(others) and min(left, right, top, bottom) >= 0:
            windows = ((1, 1), (1, 1), (top, bottom, left, right), (1, 1))
    if windows is None:
        return None
    # Where sizes are rounded up there is more outside than the padding.
    geometry = window_geometry(1, shape_of(x)[2:], (*windows, 1, (1, 1)), 1)
    return (x, windows) if geometry.output_size == shape_of(node)[2:] else None
