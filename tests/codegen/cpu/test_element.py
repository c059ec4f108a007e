"""The type of elements, carried from a register tile to what depends on it."""

import dataclasses

import pytest

from haste_compiler.codegen.cpu.cost import dense_features
from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.kernels.dense import choose_dense, dense_arguments
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import ConvTiling, WinogradTiling, choose_tiling
from haste_compiler.codegen.cpu.winograd_tiling import filter_bytes
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.graph.geometry import ConvGeometry

BF16 = Element("bfloat16", 2, "float32")
INT8 = Element("int8", 1, "int32")
UNIT = VectorUnit(16, 32)
GEOMETRY = ConvGeometry(64, 64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (56, 56), (1, 1))


@pytest.mark.parametrize("element", [FLOAT32, BF16, INT8], ids=lambda element: element.dtype)
@pytest.mark.parametrize("winograd", [0, 4])
def test_kernels_take_tensors_of_the_tiling(element: Element, winograd: int) -> None:
    tiling = choose_dense(GEOMETRY, 1, UNIT, 1, winograd, element)
    assert isinstance(tiling, WinogradTiling if winograd else ConvTiling) and tiling.tile.element == element
    dtypes = {name: dtype for name, _, dtype in dense_arguments(GEOMETRY, 1, tiling, residual=True)}
    assert dtypes.pop("bias") == element.accumulator
    assert set(dtypes.values()) == {element.dtype}


def test_smaller_elements_are_less_traffic() -> None:
    assert [each.accumulator_bytes for each in (FLOAT32, BF16, INT8)] == [4, 4, 4]
    tiling = choose_tiling(conv_work(GEOMETRY, 1), UNIT, 1)
    tile = dataclasses.replace(tiling.tile, element=BF16)
    whole = dense_features(GEOMETRY, 1, tiling, UNIT, 1)
    half = dense_features(GEOMETRY, 1, dataclasses.replace(tiling, tile=tile), UNIT, 1)
    assert half.pop("traffic") == whole.pop("traffic") / 2 and half == whole
    transformed = choose_dense(GEOMETRY, 1, UNIT, 1, 4)
    assert isinstance(transformed, WinogradTiling)
    tile = dataclasses.replace(transformed.tile, element=BF16)
    smaller = dataclasses.replace(transformed, tile=tile)
    assert filter_bytes(GEOMETRY, smaller) == filter_bytes(GEOMETRY, transformed) / 2
