"""Kernels compiled for AArch64 compute the same there, with their work cut in three."""

from dataclasses import replace

import pytest

from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.cpu import test_dense, test_winograd
from tests.codegen.cross import AARCH64, needs_emulator
from tests.codegen.examples import ConvExample
from tests.methods.haste import test_gate
from tests.methods.haste import test_kernels as test_haste_kernels
from tests.methods.haste.test_kernels import Example

pytestmark = needs_emulator


@pytest.mark.parametrize("geometry", test_dense.CORNERS)
def test_dense_convolutions(geometry: ConvGeometry) -> None:
    test_dense.check(ConvExample(geometry, 2, True, True, "relu", AARCH64, 3))


@pytest.mark.parametrize("size", [2, 4])
def test_winograds_algorithm(size: int) -> None:
    geometry = ConvGeometry(18, 20, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (9, 14), (8, 8))
    test_winograd.Example(geometry, 2, True, True, "relu", AARCH64, 3, size=size).check()


@pytest.mark.parametrize("activation", ["none", "hardswish", "silu", "gelu"])
def test_activations(activation: str) -> None:
    geometry = ConvGeometry(16, 24, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (9, 11), (8, 8))
    test_dense.check(ConvExample(geometry, 1, True, False, activation, AARCH64))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 1)])
def test_depthwise_convolutions(kernel: int, stride: int) -> None:
    pad = kernel // 2
    geometry = ConvGeometry(40, 40, (kernel, kernel), (stride, stride), (pad,) * 4, (1, 1), 40, (14, 13), (8, 8))
    test_dense.check(ConvExample(geometry, 2, True, False, "relu6", AARCH64))


@pytest.mark.parametrize("example", test_haste_kernels.CORNERS)
def test_haste_convolutions(example: Example) -> None:
    test_haste_kernels.run(replace(example, target=AARCH64, threads=3)).check()


def test_the_gate() -> None:
    test_gate.test_an_open_gate_changes_nothing_and_a_shut_one_gives_the_plain_convolution(test_gate.SHAPES[0], AARCH64)
