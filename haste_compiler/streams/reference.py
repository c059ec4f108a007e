"""A stream by its definition: the compiled one is held against it.

Every tensor of images is kept from frame to frame. A pixel's change is the square of the norm of the step that its
channels took with this frame. A convolution's outputs are cut into tiles, and each tile has a number, which grows by

    |changes of the pixels that it reads| / |as many pixels of average size|

for its input, and for what is added to its outputs. It is computed when that exceeds the tolerance, and begins at zero
again; until then it keeps its outputs. By the triangle inequality the number is at least as large as the step from the
window that it was computed from: errors don't add up over frames.

A frame's pixels, and factors of an image's channels, stay as they are while they are near what is kept of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, Pair
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D, ConvTransposeCall

aten = torch.ops.aten

_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)

Side = Callable[[fx.Node], int | None]
"""The side of a convolution's tiles; None: all of it is computed with every frame."""


class ReferenceStream(fx.Interpreter):
    """A stream of the frames that ``run`` is called with, of a graph of plain convolutions and other operators.

    Args:
        gm: the graph, as the passes left it.
        side: of each convolution's tiles.
        tolerance: of tiles.
        pixels: of the pixels of a frame.

    Attributes:
        listed: by the node's name, which tiles (N, down, across) the last frame took.
    """

    def __init__(self, gm: fx.GraphModule, side: Side, tolerance: float, pixels: float) -> None:
        super().__init__(gm)
        self._side, self._tolerance, self._pixels = side, tolerance, pixels
        self._kept: dict[fx.Node, Tensor] = {}
        self._changes: dict[fx.Node, Tensor] = {}
        self._moved: dict[fx.Node, Tensor] = {}
        self.listed: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        """What is kept of a node's tensor after this frame."""
        value = super().run_node(node)
        if not isinstance(value, Tensor) or value.dim() != 4 or node.op == "get_attr":
            return value
        kept = self._kept.get(node)
        if kept is None:
            written = torch.ones_like(value[:, :1], dtype=torch.bool)
            kept = torch.zeros_like(value)
        elif node.op == "placeholder" or _is_factor(node):
            limit = self._pixels**2 * _sizes(kept).mean((1, 2, 3), keepdim=True)
            written = (_sizes(value - kept) > limit) | ((limit == 0) & (value != kept).any(1, keepdim=True))
        else:
            written = torch.ones_like(value[:, :1], dtype=torch.bool)
        side = self._side(node) if node.target in (CONV2D, CONV_TRANSPOSE2D) else None
        if side is not None:
            written = self._listed(node, side)
        self._changes[node] = _sizes(value - kept) * written
        self._kept[node] = torch.where(written, value, kept)
        return self._kept[node]

    def _listed(self, node: fx.Node, side: int) -> Tensor:
        """The pixels (N, 1, OH, OW) of the tiles that are computed."""
        x, residual, geometry, block = _convolution(node)
        starts = [_starts(size, side) for size in geometry.output_size]
        moved = self._moved.get(node)
        if moved is None:
            moved = torch.full((self._kept[x].shape[0], *map(len, starts)), torch.inf)
        else:
            moved = moved + self._steps(x, starts, _windows(geometry, side))
            if residual is not None:
                plain = [(min(side, size), 1, 0) for size in geometry.output_size]
                moved = moved + self._steps(residual, starts, plain)
        listed = ~(moved <= self._tolerance)
        self._moved[node] = torch.where(listed, 0, moved)
        self.listed[node.name] = listed
        owners = [_owners(size, side) for size in geometry.output_size]
        pixels = listed[:, owners[0]][:, :, owners[1]][:, None]
        return pixels.repeat_interleave(block[0], 2).repeat_interleave(block[1], 3)

    def _steps(self, source: fx.Node, starts: list[list[int]], windows: list[tuple[int, int, int]]) -> Tensor:
        """For every tile what its window moved by with this frame."""
        changes, sizes = self._changes[source][:, 0], _sizes(self._kept[source])[:, 0]
        rows, columns = (
            _inside(starts[axis], windows[axis], changes.shape[1 + axis]).to(changes.dtype) for axis in (0, 1)
        )
        change = torch.einsum("nhw,ih,jw->nij", changes, rows, columns)
        average = sizes.mean((1, 2)) * windows[0][0] * windows[1][0]
        return torch.where(change == 0, 0, (change / average[:, None, None]).sqrt())


def _convolution(node: fx.Node) -> tuple[fx.Node, fx.Node | None, ConvGeometry, Pair]:
    """What is convolved, what is added, how, and the outputs (down, across) that lie side by side for a pixel."""
    if node.target is CONV2D:
        call = ConvCall.of(node)
        return call.x, call.residual, call.geometry(), (1, 1)
    transposed = ConvTransposeCall.of(node)
    each = transposed.geometry()
    channels = (each.in_channels, each.out_channels * math.prod(each.kernel))
    flat = ConvGeometry(*channels, (1, 1), (1, 1), (0,) * 4, (1, 1), 1, each.input_size, (1, 1))
    return transposed.x, None, flat, each.kernel


def _is_factor(node: fx.Node) -> bool:
    """Whether images are combined with a tensor (N, C, 1, 1)."""
    return shape_of(node)[2:] == (1, 1) and any(
        user.target in _ARITHMETIC and shape_of(user)[2:] != (1, 1) for user in node.users
    )


def tile_sides(sides: Mapping[str, int]) -> Side:
    """The sides of the convolutions of some layers, by name."""
    return lambda node: sides.get(layer_name(node))


def _sizes(values: Tensor) -> Tensor:
    return values.square().sum(1, keepdim=True)


def _starts(size: int, side: int) -> list[int]:
    """Where tiles begin; the last is moved back to fit."""
    side = min(side, size)
    return [min(start, size - side) for start in range(0, size, side)]


def _owners(size: int, side: int) -> Tensor:
    """The tile of each pixel; the later one of two."""
    starts = torch.tensor(_starts(size, side))
    return (starts[:, None] <= torch.arange(size)).sum(0) - 1


def _windows(geometry: ConvGeometry, side: int) -> list[tuple[int, int, int]]:
    """For each axis the length of a tile's window, the step from one output to the next, and what lies before."""
    top, _, left, _ = geometry.padding
    return [
        ((min(side, size) - 1) * stride + (kernel - 1) * dilation + 1, stride, before)
        for size, stride, kernel, dilation, before in zip(
            geometry.output_size, geometry.stride, geometry.kernel, geometry.dilation, (top, left), strict=True
        )
    ]


def _inside(starts: list[int], window: tuple[int, int, int], size: int) -> Tensor:
    """Which pixels (tiles, size) of an axis each tile reads."""
    length, step, before = window
    first = torch.tensor(starts)[:, None] * step - before
    places = torch.arange(size)
    return (places >= first) & (places < first + length)
