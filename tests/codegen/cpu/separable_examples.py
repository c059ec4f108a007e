"""Generated depthwise convolutions with the 1×1 convolutions around them, and what they should compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.kernels.dense import pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.pixels import FloatProduct, PixelProduct
from haste_compiler.codegen.cpu.kernels.separable import Separable, separable_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling, register_tiles
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry, row_geometry
from haste_compiler.ops.conv2d import conv2d
from tests.codegen.kernels import Arguments, build, nchw, nhwc, targets
from tests.codegen.strategies import ACTIVATIONS, geometries


@dataclass(frozen=True)
class Example:
    """Layers and how they are cut; ``expanded``: input channels of the convolution before, 0 where there is none."""

    depthwise: ConvGeometry
    expanded: int = 0
    filters: int = 20
    batch: int = 2
    residual: bool = False
    activations: tuple[str, str, str] = ("relu6", "relu6", "none")
    block: int = 3
    strip: int = 2
    tile: int = 0
    target: str = "llvm"
    seed: int = 0

    @property
    def rows(self) -> tuple[int, int]:
        """Output rows of a task, and of a strip."""
        block = min(self.block, self.depthwise.output_size[0])
        return block, min(self.strip, block)


@dataclass(frozen=True)
class Layer:
    """A convolution's weights, its geometry on the example's images, and its activation."""

    geometry: ConvGeometry
    activation: str
    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)

    @property
    def window(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups."""
        return self.geometry.stride, self.geometry.padding, self.geometry.dilation, self.geometry.groups

    def compute(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """In the type of ``x``."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        y: Tensor = conv2d(x, weight, bias, residual, *self.window, self.activation)
        return y


Packed = tuple[PixelProduct, Sequence[Any]]
"""A product and its weights."""


class Case:
    """The tensors of an example."""

    def __init__(self, example: Example) -> None:
        torch.manual_seed(example.seed)
        self.example, depthwise = example, example.depthwise
        channels, before = depthwise.in_channels, example.expanded or depthwise.in_channels
        first, middle, last = example.activations
        self.x = torch.randn(example.batch, before, *depthwise.input_size)
        self.expand = _layer(pointwise(before, channels, depthwise.input_size), first) if example.expanded else None
        self.depthwise = _layer(depthwise, middle)
        self.project = _layer(pointwise(channels, example.filters, depthwise.output_size), last)
        shape = (example.batch, example.filters, *depthwise.output_size)
        self.residual = torch.randn(shape) if example.residual else None

    def expected(self, product: Callable[[Layer, Tensor, Tensor | None], Tensor]) -> Tensor:
        """What the layers make one by one; ``product`` computes a 1×1 convolution."""
        x = self.x if self.expand is None else product(self.expand, self.x, None)
        return product(self.project, self.depthwise.compute(x.float(), None), self.residual)

    def run(self, packed: Callable[[Layer, int], Packed], batch: Any = None) -> Tensor:
        """What the kernel makes; ``packed`` is called with a 1×1 convolution and the most pixels of a register tile."""
        example, depthwise = self.example, self.example.depthwise
        before = None if self.expand is None else packed(self.expand, depthwise.input_size[1])
        after = packed(self.project, depthwise.output_size[1])
        work = Separable(
            before[0] if before else None,
            depthwise,
            self.depthwise.activation,
            after[0],
            self.residual is not None,
            *example.rows,
        )
        unit = vector_unit(parse_target(example.target))
        kernel = separable_kernel("separable", work, example.batch if batch is None else batch, unit)
        code = build({"separable": kernel}, example.target)["separable"]
        arguments = Arguments()
        arguments.read(nhwc(self.x), *(before[1] if before else []))
        arguments.read(pack_depthwise_filters(self.depthwise.weight.numpy()), self.depthwise.bias, *after[1])
        if self.residual is not None:
            arguments.read(nhwc(self.residual))
        y = arguments.write((self.x.shape[0], *depthwise.output_size, example.filters))
        arguments.call(code)
        return nchw(y)


def pointwise(channels: int, filters: int, size: tuple[int, int]) -> ConvGeometry:
    """A 1×1 convolution."""
    return ConvGeometry(channels, filters, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, size, (8, 8))


def _layer(geometry: ConvGeometry, activation: str) -> Layer:
    weight = torch.randn(geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
    return Layer(geometry, activation, weight / weight[0].numel() ** 0.5, torch.randn(geometry.out_channels))


def float_product(example: Example) -> Callable[[Layer, int], Packed]:
    """Packs 1×1 convolutions in float32, for one of the register tiles, picked by the example."""
    unit = vector_unit(parse_target(example.target))

    def packed(layer: Layer, most: int) -> Packed:
        geometry = layer.geometry
        tiles = list(register_tiles(1, most, geometry.out_channels, unit))
        tile = tiles[example.tile % len(tiles)]
        product = FloatProduct(row_geometry(geometry.in_channels, geometry.out_channels, 1), layer.activation, tile)
        tiling = ConvTiling(tile, 1, 1, False)
        return product, pack_dense(layer.weight.numpy(), layer.bias.numpy().astype(np.float32), geometry, tiling)

    return packed


def separable_examples(**rest: st.SearchStrategy[Any]) -> st.SearchStrategy[Example]:
    """Examples of every kind of depthwise convolution, cut in every way; ``rest`` draws fields otherwise."""
    quick = st.sampled_from(("none", "relu", "relu6", "hardswish", "leaky_relu:0.01", "clamp:-0.5:0.75"))
    fields: dict[str, st.SearchStrategy[Any]] = {
        "depthwise": geometries(side=9, depthwise=True, taps=5),
        "expanded": st.integers(0, 20),
        "filters": st.integers(1, 40),
        "batch": st.integers(1, 3),
        "residual": st.booleans(),
        "activations": st.tuples(quick, st.sampled_from(ACTIVATIONS), quick),
        "block": st.integers(1, 9),
        "strip": st.integers(1, 4),
        "tile": st.integers(0, 40),
        "target": st.sampled_from(targets()),
        "seed": st.integers(0, 2**16),
    }
    return st.builds(Example, **(fields | rest))
