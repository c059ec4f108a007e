"""Generated convolutions of bfloat16, and what they should compute."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from haste_compiler.methods.bfloat16.cpu.direct import direct_kernel, pack_direct
from haste_compiler.methods.bfloat16.cpu.unit import BFloat16Unit
from haste_compiler.methods.bfloat16.cpu.winograd import pack_winograd, winograd_kernel
from haste_compiler.methods.bfloat16.ops.conv2d import bfloat16_conv2d
from haste_compiler.methods.bfloat16.ops.winograd import bfloat16_winograd
from haste_compiler.methods.bfloat16.weights import round_filters, round_transformed
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct, integer_tiles
from haste_compiler.methods.quantized.cpu.winograd_tiling import WinogradTiling
from tests.codegen.examples import ConvExample, conv_examples
from tests.codegen.kernels import Arguments, ConvCase, build, finish, nhwc
from tests.methods.bfloat16.units import unit_of


@dataclass(frozen=True)
class Example(ConvExample):
    """A convolution of bfloat16, as it is written.

    Attributes:
        spoiled: inputs that are infinite or NaN.
    """

    spoiled: int = 0

    ROUNDING = 1e-5
    """Of the largest sum, what an output may differ by."""

    def case(self, x: Tensor | None = None) -> ConvCase:
        case = super().case(x)
        values = [torch.nan, torch.inf, -torch.inf]
        places = torch.randperm(case.x.numel())[: self.spoiled]
        for place, value in zip(places.tolist(), values, strict=False):
            case.x.view(-1)[place] = value
        return case

    @property
    def unit(self) -> BFloat16Unit:
        return unit_of(self.target)

    def tiling(self) -> Any:
        machine = vector_unit(parse_target(self.target))
        return choose_direct(self.geometry, self.batch, self.unit, machine, self.threads)[1]

    def kernel(self, batch: Any, tiling: Any, **epilogue: Any) -> Any:
        return direct_kernel("conv", self.geometry, batch, tiling, self.unit, **epilogue)

    def packed(self, case: ConvCase, tiling: Any) -> list[Any]:
        bias = None if case.bias is None else case.bias.numpy()
        return pack_direct(bits(round_filters(case.weight)), bias, self.geometry, tiling, self.unit)

    def expected(self, case: ConvCase) -> Tensor:
        """What the operator says, (N, K, OH, OW)."""
        geometry = case.geometry
        window = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        weight = round_filters(case.weight)
        result: Tensor = bfloat16_conv2d(case.x, weight, case.bias, case.residual, *window, case.activation)
        return result

    def check(self) -> None:
        """Compare the kernel with the operator."""
        case = self.case()
        wanted, y = self.expected(case), Kernel(self, case, self.tiling()).run(case)
        # Sums are as large as they are before the activation.
        before = self.expected(replace(case, activation="none"))
        largest = float(before[before.isfinite()].abs().amax()) if before.isfinite().any() else 0.0
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=self.ROUNDING * largest, equal_nan=True)


@dataclass(frozen=True)
class WinogradExample(Example):
    """A convolution of bfloat16 by tiles of ``size``.

    Attributes:
        size: m.
        cut: which register tile, how many tiles and how many tiles of output channels a task has.
    """

    size: int = 4
    cut: tuple[int, int, int] = (7, 5, 2)

    # Transforms in another order round otherwise, and now and then a value to the next bfloat16.
    ROUNDING = 2e-3

    def tiling(self) -> WinogradTiling:
        rows, columns = (math.ceil(size / self.size) for size in self.geometry.output_size)
        total = self.batch * rows * columns
        number, tiles, chunk = self.cut
        found = list(integer_tiles(min(total, tiles), self.geometry.out_channels, self.unit))
        return WinogradTiling(self.size, found[number % len(found)], min(total, tiles), chunk)

    def kernel(self, batch: Any, tiling: Any, **epilogue: Any) -> Any:
        return winograd_kernel("conv", self.geometry, batch, tiling, self.unit, **epilogue)

    def packed(self, case: ConvCase, tiling: Any) -> list[Any]:
        bias = None if case.bias is None else case.bias.numpy()
        transformed, plain = bits(round_transformed(case.weight, self.size)), bits(round_filters(case.weight))
        return pack_winograd(transformed, plain, bias, self.geometry, tiling, self.unit)

    def expected(self, case: ConvCase) -> Tensor:
        filters = round_transformed(case.weight, self.size), round_filters(case.weight)
        padding = self.geometry.padding
        result: Tensor = bfloat16_winograd(case.x, *filters, case.bias, case.residual, padding, case.activation)
        return result


@dataclass
class Kernel:
    """The kernel of an example, built once; ``batch`` may be dynamic."""

    example: Example
    case: ConvCase
    tiling: ConvTiling | WinogradTiling
    batch: Any = None

    @cached_property
    def code(self) -> Any:
        epilogue = {"residual": self.case.residual is not None, "activation": self.case.activation}
        kernel = self.example.kernel(self.batch or self.case.batch, self.tiling, **epilogue)
        return build({"conv": kernel}, self.example.target)["conv"]

    def run(self, case: ConvCase) -> Tensor:
        """The output for a case's images and residual, (N, K, OH, OW)."""
        arguments = Arguments()
        arguments.read(nhwc(case.x), *self.example.packed(case, self.tiling))
        return finish(case, arguments, self.code)


def bits(tensor: Tensor) -> Any:
    """Of bfloat16, as NumPy holds them."""
    return tensor.view(torch.uint16).numpy()


def direct_examples(
    geometry: st.SearchStrategy[ConvGeometry], **rest: st.SearchStrategy[Any]
) -> st.SearchStrategy[Example]:
    """Examples of up to three images; ``rest`` draws fields otherwise."""
    spoiled = st.sampled_from((0, 0, 3))
    return conv_examples(Example, geometry, 3, threads=st.sampled_from((1, 2, 3)), spoiled=spoiled, **rest)


def winograd_examples(
    geometry: st.SearchStrategy[ConvGeometry], **rest: st.SearchStrategy[Any]
) -> st.SearchStrategy[WinogradExample]:
    """Examples of up to three images, however cut; ``rest`` draws fields otherwise."""
    return conv_examples(
        WinogradExample,
        geometry,
        3,
        size=st.sampled_from(SIZES),
        cut=st.tuples(st.integers(0, 60), st.integers(1, 20), st.integers(1, 3)),
        spoiled=st.sampled_from((0, 0, 3)),
        **rest,
    )
