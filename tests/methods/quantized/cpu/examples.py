"""Generated convolutions of integers, and what they should compute."""

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
from haste_compiler.methods.quantized.cpu.direct import direct_kernel, pack_direct
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit
from haste_compiler.methods.quantized.ops.conv2d import quantized_conv2d
from tests.codegen.examples import ConvExample, conv_examples
from tests.codegen.kernels import Arguments, ConvCase, build, finish, nhwc
from tests.methods.quantized.filters import filters_of, suited
from tests.methods.quantized.units import AS_WRITTEN, unit_of


@dataclass(frozen=True)
class Example(ConvExample):
    """A convolution of integers.

    Attributes:
        unit: see ``unit_of``.
        nonnegative: no input is negative.
        spoiled: inputs that are infinite or NaN.
    """

    unit: str = "own"
    nonnegative: bool = False
    spoiled: int = 0

    def case(self, x: Tensor | None = None) -> ConvCase:
        case = super().case(x)
        case.weight = suited(case.weight, self.integer_unit)
        if self.nonnegative:
            case.x = case.x.relu()
        values = [torch.nan, torch.inf, torch.nan if self.nonnegative else -torch.inf]
        places = torch.randperm(case.x.numel())[: self.spoiled]
        for place, value in zip(places.tolist(), values, strict=False):
            case.x.view(-1)[place] = value
        return case

    @property
    def integer_unit(self) -> IntegerUnit:
        return unit_of(self.unit, self.target)

    def tiling(self) -> ConvTiling:
        machine = vector_unit(parse_target(self.target))
        return choose_direct(self.geometry, self.batch, self.integer_unit, machine, self.threads)[1]

    def check(self) -> None:
        """Compare the kernel with the operator: sums are the same, the epilogue may round otherwise."""
        case = self.case()
        wanted, y = self.expected(case), self.run(case)
        size = wanted if self.activation == "none" else self.expected(replace(case, activation="none"))
        atol = 1e-5 * float(size[size.isfinite()].abs().amax()) if size.isfinite().any() else 0.0
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=atol, equal_nan=True)

    def filters(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers and scales of the filters, as the unit takes them."""
        return filters_of(weight, self.geometry, self.integer_unit)

    def expected(self, case: ConvCase) -> Tensor:
        """What the operator says, (N, K, OH, OW)."""
        geometry, (weight, scale) = case.geometry, self.filters(case.weight)
        window = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        rest = (case.activation, self.nonnegative, self.integer_unit.bits)
        result: Tensor = quantized_conv2d(case.x, weight, scale, case.bias, case.residual, *window, *rest)
        return result

    def run(self, case: ConvCase, tiling: ConvTiling | None = None) -> Tensor:
        """The output of the kernel, (N, K, OH, OW)."""
        return DirectKernel(self, case, self.tiling() if tiling is None else tiling, case.batch).run(case)


@dataclass
class DirectKernel:
    """The kernel of an example, built once, for a batch that may be dynamic."""

    example: Example
    case: ConvCase
    tiling: ConvTiling
    batch: Any

    @cached_property
    def code(self) -> Any:
        kernel = direct_kernel(
            "conv",
            self.example.geometry,
            self.batch,
            self.tiling,
            self.example.integer_unit,
            nonnegative=self.example.nonnegative,
            residual=self.case.residual is not None,
            activation=self.case.activation,
        )
        return build({"conv": kernel}, self.example.target)["conv"]

    def run(self, case: ConvCase, filters: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The output for a case's images and residual, (N, K, OH, OW); ``filters``: other integers and scales."""
        weight, scale = self.example.filters(case.weight) if filters is None else filters
        bias = None if case.bias is None else case.bias.numpy()
        packed = pack_direct(
            weight.numpy(),
            scale.numpy(),
            bias,
            self.example.geometry,
            self.tiling,
            self.example.integer_unit,
            nonnegative=self.example.nonnegative,
        )
        arguments = Arguments()
        arguments.read(nhwc(case.x), *packed)
        return finish(case, arguments, self.code)


def quantized_examples(
    geometry: st.SearchStrategy[ConvGeometry], **rest: st.SearchStrategy[Any]
) -> st.SearchStrategy[Example]:
    """Examples of up to three images, for every unit; ``rest`` draws fields otherwise."""
    return conv_examples(
        Example,
        geometry,
        3,
        threads=st.sampled_from((1, 2, 3)),
        unit=st.sampled_from(AS_WRITTEN),
        nonnegative=st.booleans(),
        spoiled=st.sampled_from((0, 0, 3)),
        **rest,
    )
