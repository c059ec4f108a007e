"""Convolutions of bfloat16 compiled for AArch64, with its instruction, run by an emulator."""

import pytest

from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.bfloat16.cpu.unit import BFloat16Unit, bfloat16_unit
from tests.codegen.cross import AARCH64, needs_emulator
from tests.methods.bfloat16.cpu.examples import Example, WinogradExample
from tests.methods.bfloat16.cpu.test_direct import ODD, ODD_GROUPS
from tests.methods.quantized.cpu.test_direct import LINEAR, POINTWISE, STRIDED
from tests.methods.quantized.cpu.test_winograd import SMALL

NEOVERSE = "llvm -mtriple=aarch64-linux-gnu -mcpu=neoverse-n2"
EXTENDED = f"{AARCH64} -mattr=+bf16"

pytestmark = needs_emulator


@pytest.mark.parametrize("geometry", [POINTWISE, STRIDED, ODD, ODD_GROUPS])
def test_convolutions(geometry: ConvGeometry) -> None:
    assert type(bfloat16_unit(parse_target(NEOVERSE))) is BFloat16Unit
    Example(geometry, residual=True, activation="relu", target=NEOVERSE, threads=3, spoiled=2).check()


@pytest.mark.parametrize("geometry", [LINEAR, STRIDED])
def test_an_extension_of_the_instruction_set(geometry: ConvGeometry) -> None:
    Example(geometry, target=EXTENDED).check()


@pytest.mark.parametrize("size", [2, 4])
def test_winograds_algorithm(size: int) -> None:
    WinogradExample(SMALL, residual=True, activation="relu", size=size, target=NEOVERSE, spoiled=2).check()
