"""Streams on a CPU: operators that compute a pixel from a few others, of which only those are computed that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.cpu.kernels.activation import pack_channels
from haste_compiler.codegen.cpu.kernels.kept_pixels import (
    Blended,
    Here,
    Picked,
    PixelSource,
    Pixelwise,
    Whole,
    pixels_kernel,
)
from haste_compiler.codegen.cpu.kernels.resize import pack_positions
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.images import PICKED
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.stream_plan import Described
from haste_compiler.codegen.stream_walk import Planes, StreamWalk
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, args_of
from haste_compiler.graph.nodes import argument, is_constant, layer_name, shape_of
from haste_compiler.graph.resizing import axis_map
from haste_compiler.ops.activation import ACTIVATIONS, activation_name

aten = torch.ops.aten

_KINDS: Mapping[Any, str] = {
    aten.add.Tensor: "add",
    aten.sub.Tensor: "sub",
    aten.mul.Tensor: "mul",
    aten.div.Tensor: "div",
}


def plane_state(batch: int, size: Any) -> Described:
    """A plane of kept images."""
    return (batch, *size), FLOAT32.dtype


def kept_states(batch: int, size: Any, channels: int) -> list[Described]:
    """Kept images, and their sizes."""
    return [((batch, *size, channels), FLOAT32.dtype), plane_state(batch, size)]


def plane_expressions(planes: Iterable[Planes]) -> list[Any]:
    """The planes of several images as kernels take them."""
    return [plane for each in planes for plane in (each.sizes, each.changes)]


def keep_pixels(
    walk: StreamWalk[Cpu],
    node: fx.Node,
    work: Pixelwise,
    images: Sequence[Any],
    planes: Sequence[Planes],
    constants: Sequence[NDArray[Any]],
) -> Value:
    """Launch what computes a node's pixels of kept images, and keep them.

    Args:
        walk: the walk.
        node: whose tensor it is.
        work: what is computed.
        images, planes: of the sources, NHWC.
        constants: the tables of the sources, then the constant.
    """
    batch, _, *size = shape_of(node)
    after = size[0], size[1]
    values, sizes, changes = walk.launch_kept(
        ("kept_pixels", work, batch, after),
        layer_name(node),
        [*images, *plane_expressions(planes), *map(walk.param, constants), walk.tolerances],
        kept_states(batch, size, work.channels),
        [plane_state(batch, size)],
        lambda symbol: pixels_kernel(symbol, work, batch, after, walk.machine.unit.lanes),
    )
    return walk.keep(node, values, Planes(sizes, changes))


def _source(walk: StreamWalk[Cpu], x: fx.Node, place: Any) -> PixelSource:
    _, channels, height, width = shape_of(x)
    return PixelSource((height, width), channels, place)


def _of_images(walk: StreamWalk[Cpu], node: fx.Node, *sources: fx.Node) -> bool:
    """Whether a call makes images of images, of which at least one is kept."""
    known = is_float(node, *sources) and all(len(shape_of(each)) == 4 for each in (node, *sources))
    return known and any(map(walk.has_planes, sources))


def _of_one(
    walk: StreamWalk[Cpu], node: fx.Node, x: fx.Node, work: Pixelwise, constants: Sequence[NDArray[Any]]
) -> Value:
    planes = walk.planes(x)
    return keep_pixels(walk, node, work, [walk.nhwc(x)], [planes], constants)


def activation(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """An activation that stands alone."""
    name, x = activation_name(node), args_of(node)[0]
    if name is None or not _of_images(walk, node, x):
        return None
    return _of_one(walk, node, x, Pixelwise("copy", (_source(walk, x, Here()),), activation=name), [])


def prelu(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """A slope below zero, one for all channels or one for each."""
    x, weight = args_of(node)
    if not is_constant(weight) or not _of_images(walk, node, x):
        return None
    slopes = pack_channels(walk.constant(weight), shape_of(x)[1])
    return _of_one(walk, node, x, Pixelwise("prelu", (_source(walk, x, Here()),), "right"), [slopes])


def arithmetic(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """Images with images, with factors of their channels, or with constants."""
    sides = list(args_of(node)[:2])
    if argument(node, 2, "alpha", 1) != 1 or argument(node, 2, "rounding_mode") is not None:
        return None
    tensors = [side for side in sides if isinstance(side, fx.Node) and not is_constant(side)]
    if not tensors or not _of_images(walk, node, *tensors):
        return None
    shape = shape_of(node)
    places = [Here() if shape_of(each) == shape else Whole() for each in tensors]
    others = [each for each, place in zip(tensors, places, strict=True) if place == Whole()]
    if len(others) == len(tensors) or any(shape_of(each) != (*shape[:2], 1, 1) for each in others):
        return None
    constants, where = [], ""
    if len(tensors) == 1:
        constant = _constant(walk, sides[0] if tensors[0] is sides[1] else sides[1], shape[1])
        if constant is None:
            return None
        constants, where = [constant], "left" if tensors[0] is sides[1] else "right"
    planes = [walk.planes(each, tolerant=place == Whole()) for each, place in zip(tensors, places, strict=True)]
    sources = tuple(_source(walk, each, place) for each, place in zip(tensors, places, strict=True))
    work = Pixelwise(_KINDS[node.target], sources, where)
    return keep_pixels(walk, node, work, list(map(walk.nhwc, tensors)), planes, constants)


def _constant(walk: StreamWalk[Cpu], side: Any, channels: int) -> NDArray[np.float32] | None:
    """An operand as one value for each channel; None: it is something else."""
    if not isinstance(side, fx.Node):
        return pack_channels(np.array(side), channels)
    value = walk.constant(side)
    shape = (1,) * (4 - value.ndim) + value.shape
    return pack_channels(value, channels) if shape in ((1, channels, 1, 1), (1, 1, 1, 1)) else None


def join(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """Images one behind the other, by their channels."""
    parts = args_of(node)[0]
    if argument(node, 1, "dim", 0) % 4 != 1 or not _of_images(walk, node, *parts):
        return None
    planes = [walk.planes(part) for part in parts]
    work = Pixelwise("join", tuple(_source(walk, part, Here()) for part in parts))
    return keep_pixels(walk, node, work, list(map(walk.nhwc, parts)), planes, [])


def pick(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """Rows and columns of images: padding, resizing by nearest neighbours."""
    x = args_of(node)[0]
    if not _of_images(walk, node, x):
        return None
    picks = PICKED[node.target](node)
    if picks is None:
        return None
    places, fill = picks
    return _of_one(walk, node, x, Pixelwise("copy", (_source(walk, x, Picked(fill)),)), list(places))


def resize(walk: StreamWalk[Cpu], node: fx.Node) -> Value | None:
    """Bilinear resizing."""
    x = args_of(node)[0]
    if not _of_images(walk, node, x):
        return None
    tables = [table for axis in (0, 1) for table in pack_positions(axis_map(node, axis).numpy())]
    return _of_one(walk, node, x, Pixelwise("copy", (_source(walk, x, Blended()),)), tables)


PIXEL_RULES: Mapping[Any, Callable[[StreamWalk[Cpu], fx.Node], Value | None]] = {
    **dict.fromkeys(ACTIVATIONS, activation),
    aten.prelu.default: prelu,
    **dict.fromkeys(_KINDS, arithmetic),
    aten.cat.default: join,
    **dict.fromkeys(PICKED, pick),
    aten.upsample_bilinear2d.vec: resize,
}
