"""Generated convolutions of integers by Winograd's algorithm, and what they should compute."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.tiling import RegisterTile
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from haste_compiler.methods.quantized.bits import NARROW_BITS
from haste_compiler.methods.quantized.cpu.direct_tiling import INTEGER, integer_tiles
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit
from haste_compiler.methods.quantized.cpu.winograd import pack_winograd, winograd_kernel
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling
from haste_compiler.methods.quantized.ops.winograd import quantized_winograd
from haste_compiler.methods.quantized.weights import quantize_filters, quantize_transformed
from tests.codegen.examples import ConvExample, conv_examples
from tests.codegen.kernels import Arguments, ConvCase, build, finish, nhwc
from tests.methods.quantized.units import UNITS, unit_of


@dataclass(frozen=True)
class WinogradExample(ConvExample):
    """A convolution of integers by tiles of ``size``.

    Attributes:
        size: m.
        cut: which register tile, how many tiles and how many tiles of output channels a task has.
        unit: see ``unit_of``.
        spoiled: inputs that are infinite or NaN.
        exact: inputs are such that their transforms need no rounding, in whatever order.
    """

    size: int = 4
    cut: tuple[int, int, int] = (7, 5, 2)
    unit: str = "own"
    spoiled: int = 0
    exact: bool = True

    def case(self, x: Tensor | None = None) -> ConvCase:
        case = super().case(x)
        if self.exact:
            case.x = torch.randint(-15, 16, case.x.shape).float()
        values = [torch.nan, torch.inf, -torch.inf]
        places = torch.randperm(case.x.numel())[: self.spoiled]
        for place, value in zip(places.tolist(), values, strict=False):
            case.x.view(-1)[place] = value
        return case

    @property
    def integer_unit(self) -> IntegerUnit:
        return unit_of(self.unit, self.target)

    def tiling(self) -> WinogradTiling:
        rows, columns = (math.ceil(size / self.size) for size in self.geometry.output_size)
        total = self.batch * rows * columns
        number, tiles, chunk = self.cut
        found = list(integer_tiles(min(total, tiles), self.geometry.out_channels, self.integer_unit))
        return WinogradTiling(self.size, found[number % len(found)], min(total, tiles), chunk)

    def check(self) -> None:
        """Compare the kernel with the operator: integers and sums are the same, the epilogue may round otherwise."""
        case = self.case()
        wanted, y = expected(case, self), WinogradKernel(self, case).run(case)
        # Sums are as large as they are before the activation.
        before = expected(replace(case, activation="none"), self)
        atol = 1e-5 * float(before[before.isfinite()].abs().amax()) if before.isfinite().any() else 0.0
        torch.testing.assert_close(y, wanted, rtol=2e-5, atol=atol, equal_nan=True)


@dataclass
class WinogradKernel:
    """The kernel of an example, built once; ``batch`` may be dynamic, and the tiling another than the example's."""

    example: WinogradExample
    case: ConvCase
    batch: Any = None
    other: WinogradTiling | None = None

    @property
    def tiling(self) -> WinogradTiling:
        return self.other or self.example.tiling()

    @cached_property
    def code(self) -> Any:
        kernel = winograd_kernel(
            "conv",
            self.example.geometry,
            self.batch or self.case.batch,
            self.tiling,
            self.example.integer_unit,
            residual=self.case.residual is not None,
            activation=self.case.activation,
        )
        return build({"conv": kernel}, self.example.target)["conv"]

    def run(self, case: ConvCase) -> Tensor:
        """The output for a case's images and residual, (N, K, OH, OW)."""
        bias = None if case.bias is None else case.bias.numpy()
        transformed, plain = weights(case.weight, self.example)
        packed = pack_winograd(
            (transformed[0].numpy(), transformed[1].numpy()),
            (plain[0].numpy(), plain[1].numpy()),
            bias,
            self.example.geometry,
            self.tiling,
            self.example.integer_unit,
        )
        arguments = Arguments()
        arguments.read(nhwc(case.x), *packed)
        return finish(case, arguments, self.code)


def weights(weight: Tensor, example: WinogradExample) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Transformed filters and filters as they are, each with their scales."""
    narrow = example.integer_unit.bits == NARROW_BITS
    return quantize_transformed(weight, example.size, narrow=narrow), quantize_filters(weight)


def expected(case: ConvCase, example: WinogradExample) -> Tensor:
    """What the operator says of an example's case, (N, K, OH, OW)."""
    (transformed, scales), (plain, scale) = weights(case.weight, example)
    result: Tensor = quantized_winograd(
        case.x,
        transformed,
        scales,
        plain,
        scale,
        case.bias,
        case.residual,
        case.geometry.padding,
        case.activation,
        example.integer_unit.bits,
    )
    return result


def tiling_of(example: WinogradExample, columns: int, vectors: int, tiles: int, chunk: int) -> WinogradTiling:
    """A tiling by its numbers."""
    tile = RegisterTile(1, columns, vectors, example.integer_unit.lanes, INTEGER)
    return WinogradTiling(example.size, tile, tiles, chunk)


@st.composite
def convolutions(draw: st.DrawFn, channels: int = 40, filters: int = 40, side: int = 11) -> ConvGeometry:
    """3×3 convolutions, also of outputs that are smaller than a tile."""
    top, bottom, left, right = (draw(st.integers(0, 2)) for _ in range(4))
    height, width = (draw(st.integers(1, side)) for _ in range(2))
    inputs = (max(1, height + 2 - top - bottom), max(1, width + 2 - left - right))
    counts = draw(st.integers(1, channels)), draw(st.integers(1, filters))
    return ConvGeometry(*counts, (3, 3), (1, 1), (top, bottom, left, right), (1, 1), 1, inputs, (8, 8))


def winograd_examples(geometry: st.SearchStrategy[ConvGeometry]) -> st.SearchStrategy[WinogradExample]:
    """Examples of up to three images, for every unit and however cut."""
    return conv_examples(
        WinogradExample,
        geometry,
        3,
        size=st.sampled_from(SIZES),
        cut=st.tuples(st.integers(0, 60), st.integers(1, 20), st.integers(1, 3)),
        unit=st.sampled_from(UNITS),
        spoiled=st.sampled_from((0, 0, 3)),
    )
