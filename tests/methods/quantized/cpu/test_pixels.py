"""1×1 convolutions of integers in one kernel with the depthwise one between them, against each in its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import row_geometry
from haste_compiler.methods.quantized.cpu.direct import direct_kernel, pack_direct
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct, integer_tiles
from haste_compiler.methods.quantized.cpu.pixels import IntegerProduct
from tests.codegen.cpu.separable_examples import Case, Example, Layer, Packed, separable_examples
from tests.codegen.cpu.test_separable import CORNERS, depthwise
from tests.codegen.examples import several
from tests.codegen.kernels import Arguments, ConvCase, build, nchw, nhwc, run_depthwise
from tests.methods.quantized.filters import filters_of, suited
from tests.methods.quantized.units import AS_WRITTEN, unit_of


@dataclass(frozen=True)
class IntegerExample(Example):
    """``unit``: see ``unit_of``; ``spoiled``: inputs that are infinite or NaN."""

    unit: str = "own"
    spoiled: int = 0

    def case(self) -> Case:
        case = Case(self)
        places = torch.randperm(case.x.numel())[: self.spoiled].tolist()
        for place, value in zip(places, [torch.nan, torch.inf, -torch.inf], strict=False):
            case.x.view(-1)[place] = value
        return case

    def check(self) -> None:
        """Compare with each layer in a kernel of its own: to the bit."""
        case = self.case()
        y = case.run(self._packed)
        x = case.x if case.expand is None else self._alone(case.expand, case.x, None)
        middle = case.depthwise
        between = run_depthwise(
            ConvCase(middle.geometry, x, middle.weight, middle.bias, None, middle.activation), self.target
        )
        wanted = self._alone(case.project, between, case.residual)
        torch.testing.assert_close(y, wanted, rtol=0, atol=0, equal_nan=True)

    def _nonnegative(self, layer: Layer) -> bool:
        """Whether what a layer reads has no negative number: the depthwise one's result after a ReLU."""
        return layer.geometry.out_channels == self.filters and self.activations[1] in ("relu", "relu6")

    def _packed(self, layer: Layer, most: int) -> Packed:
        geometry, unit = layer.geometry, unit_of(self.unit, self.target)
        tiles = list(integer_tiles(most, geometry.out_channels, unit))
        tile = tiles[self.tile % len(tiles)]
        row = row_geometry(geometry.in_channels, geometry.out_channels, 1)
        product = IntegerProduct(row, layer.activation, tile, unit, self._nonnegative(layer))
        return product, self._weights(layer, ConvTiling(tile, 1, 1, False))

    def _weights(self, layer: Layer, tiling: ConvTiling) -> list[Any]:
        unit, geometry = unit_of(self.unit, self.target), layer.geometry
        weight, scale = filters_of(suited(layer.weight, unit), geometry, unit)
        given = (weight.numpy(), scale.numpy(), layer.bias.numpy(), geometry, tiling)
        return pack_direct(*given, unit, nonnegative=self._nonnegative(layer))

    def _alone(self, layer: Layer, x: Tensor, residual: Tensor | None) -> Tensor:
        """A layer in the kernel that it has otherwise."""
        unit, machine = unit_of(self.unit, self.target), vector_unit(parse_target(self.target))
        _, tiling = choose_direct(layer.geometry, self.batch, unit, machine, 1)
        kernel = direct_kernel(
            "conv",
            layer.geometry,
            self.batch,
            tiling,
            unit,
            nonnegative=self._nonnegative(layer),
            residual=residual is not None,
            activation=layer.activation,
        )
        arguments = Arguments()
        arguments.read(nhwc(x), *self._weights(layer, tiling), *([] if residual is None else [nhwc(residual)]))
        y = arguments.write((self.batch, *layer.geometry.output_size, layer.geometry.out_channels))
        arguments.call(build({"conv": kernel}, self.target)["conv"])
        return nchw(y)


def as_integers(example: Example, **fields: object) -> IntegerExample:
    return IntegerExample(**{**vars(example), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", AS_WRITTEN)
def test_every_unit(unit: str) -> None:
    example = Example(depthwise(10, (6, 9)), expanded=5, filters=11, residual=True)
    as_integers(example, unit=unit, spoiled=2).check()


@pytest.mark.parametrize("corner", [1, 6, 7])
def test_corners(corner: int) -> None:
    as_integers(CORNERS[corner]).check()


def generated(**rest: st.SearchStrategy[object]) -> st.SearchStrategy[IntegerExample]:
    made: Callable[..., IntegerExample] = as_integers
    return st.builds(
        made, separable_examples(**rest), unit=st.sampled_from(AS_WRITTEN), spoiled=st.sampled_from((0, 0, 3))
    )


@settings(max_examples=1)
@given(several(generated(), 2))
def test_generated(examples: list[IntegerExample]) -> None:
    for example in examples:
        example.check()


@pytest.mark.slow
@settings(max_examples=200)
@given(generated())
def test_generated_more(example: IntegerExample) -> None:
    example.check()
