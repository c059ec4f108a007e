"""Where labels come from, and which operators hand them on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from haste_compiler.codegen.trusted import POINTWISE
from haste_compiler.graph.nodes import is_call, is_constant, is_tensor, shape_of

aten = torch.ops.aten

_IMAGES = 4
"""Dimensions of a tensor of images."""

_BY_CHANNEL = (aten.prelu.default,)
"""Operators of an image's pixels and of constants, one for all channels or one for each."""

_SUMS = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def is_source(node: fx.Node) -> bool:
    """Whether a node's tensor can be labelled by itself: an input of float32 images, as many as were captured."""
    if node.op != "placeholder" or not is_tensor(node):
        return False
    value = node.meta["val"]
    fixed = not any(isinstance(size, torch.SymInt) for size in value.shape)
    return fixed and value.dtype == torch.float32 and value.dim() == _IMAGES and value.numel() > 0


def carried(node: fx.Node, known: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """The tensors whose labels, together, are a node's: pixels alike in all of them are alike in its own.

    Args:
        node: any but a convolution.
        known: whether a tensor has labels.

    Returns:
        One or several tensors of the node's height and width; none: nothing is known of the node.
    """
    if not is_tensor(node) or node.meta["val"].dim() != _IMAGES or node.meta["val"].dtype != torch.float32:
        return []
    if is_call(node, *POINTWISE, *_BY_CHANNEL, *_SUMS):
        inputs = node.all_input_nodes
    elif is_call(node, aten.cat.default) and node.args[1:] == (1,):
        inputs = node.all_input_nodes
    else:
        return []
    images = [source for source in inputs if not _is_of_channels(source, node)]
    fitting = all(is_tensor(each) and shape_of(each)[2:] == shape_of(node)[2:] and known(each) for each in images)
    return list(dict.fromkeys(images)) if images and fitting else []


def _is_of_channels(source: fx.Node, node: fx.Node) -> bool:
    """Whether a tensor holds numbers for whole channels of the images (N, C, H, W) that a node makes."""
    if not is_tensor(source):
        return True
    shape = shape_of(source)
    if is_call(node, aten.prelu.default) and is_constant(source):
        return True
    return len(shape) < len(shape_of(node)) - 1 and len(shape) == 0 or (
        len(shape) >= _IMAGES - 1 and shape[-2:] == (1, 1) and shape_of(node)[2:] != (1, 1)
    )
