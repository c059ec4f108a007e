"""Convolutions of integers compiled for AArch64, with a dot product of bytes and without."""

from dataclasses import replace

import pytest

from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.ternary import TernaryPairs
from haste_compiler.methods.quantized.cpu.unit import IntegerUnit, Multiply, SignedDot
from haste_compiler.methods.quantized.cpu.units import integer_unit
from tests.codegen.cross import AARCH64, needs_emulator
from tests.methods.quantized.cpu.examples import Example
from tests.methods.quantized.cpu.test_direct import GROUPED, LINEAR, LONG, POINTWISE, STRIDED

WITHOUT_DOT = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72"

pytestmark = needs_emulator


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("geometry", [POINTWISE, STRIDED])
@pytest.mark.parametrize(("target", "unit"), [(AARCH64, SignedDot), (WITHOUT_DOT, Multiply)])
def test_convolutions(target: str, unit: type[IntegerUnit], geometry: ConvGeometry, nonnegative: bool) -> None:
    assert type(integer_unit(parse_target(target))) is unit
    Example(geometry, residual=True, activation="relu", target=target, nonnegative=nonnegative, spoiled=2).check()


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("geometry", [GROUPED, STRIDED, LONG])
def test_ternary_filters(geometry: ConvGeometry, nonnegative: bool) -> None:
    """Without a dot product in sums of 16 bits, which are widened before they overflow."""
    example = Example(geometry, target=WITHOUT_DOT, unit="ternary", nonnegative=nonnegative, spoiled=2)
    assert type(example.integer_unit) is TernaryPairs
    example.check()


@pytest.mark.parametrize("geometry", [GROUPED, replace(LINEAR, in_channels=1030, out_channels=100)])
def test_groups_and_streamed_filters(geometry: ConvGeometry) -> None:
    Example(geometry, batch=1, target=AARCH64, threads=3).check()
