"""Dense and depthwise convolution kernels against PyTorch in double precision."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.haste import ConvGeometry, ops
from tests.codegen.kernels import ConvCase, conv_case, run_conv2d, run_depthwise, targets
from tests.codegen.strategies import ACTIVATIONS, geometries

Run = Callable[[ConvCase, str, int], Tensor]


def expected(case: ConvCase) -> Tensor:
    geometry = case.geometry
    x, weight = case.x.double(), case.weight.double()
    bias = None if case.bias is None else case.bias.double()
    residual = None if case.residual is None else case.residual.double()
    sizes = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    result: Tensor = ops.conv2d(x, weight, bias, residual, *sizes, case.activation)
    return result


def check(run: Run, case: ConvCase, target: str, threads: int) -> None:
    actual, wanted = run(case, target, threads).double(), expected(case)
    error = (actual - wanted).norm()
    assert error <= 2e-6 * wanted.norm() + 1e-5, f"relative error {error / wanted.norm():.1e}"


# What the generator rarely hits: one pixel, one channel, sides of exactly one tile, the 1×1 convolution as a matrix
# product, kernels as large as the image.
CORNERS = [
    ConvGeometry(1, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (8, 8)),
    ConvGeometry(33, 65, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (5, 7), (8, 8)),
    ConvGeometry(16, 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (14, 14), (8, 8)),
    ConvGeometry(3, 31, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1, (23, 25), (8, 8)),
    ConvGeometry(4, 6, (5, 6), (1, 1), (0, 0, 0, 0), (1, 1), 2, (5, 6), (8, 8)),
    ConvGeometry(8, 8, (1, 7), (1, 1), (0, 0, 3, 3), (1, 1), 1, (9, 9), (8, 8)),
    ConvGeometry(8, 24, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 8, (9, 9), (8, 8)),
    ConvGeometry(6, 9, (2, 2), (3, 3), (3, 0, 0, 3), (1, 1), 3, (4, 4), (8, 8)),
]


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("geometry", CORNERS)
def test_dense_corners(geometry: ConvGeometry, target: str) -> None:
    case = conv_case(geometry, 2, bias=True, residual=True, activation="relu")
    check(run_conv2d, case, target, 1)


@dataclass(frozen=True)
class Example:
    """A generated case, small enough to be printed."""

    geometry: ConvGeometry
    batch: int
    bias: bool
    residual: bool
    activation: str
    target: str
    threads: int
    seed: int

    def check(self) -> None:
        geometry = self.geometry
        torch.manual_seed(self.seed)
        run = run_depthwise if geometry.groups == geometry.in_channels == geometry.out_channels > 1 else run_conv2d
        case = conv_case(geometry, self.batch, bias=self.bias, residual=self.residual, activation=self.activation)
        check(run, case, self.target, self.threads)


def examples(geometry: st.SearchStrategy[ConvGeometry]) -> st.SearchStrategy[Example]:
    return st.builds(
        Example,
        geometry,
        st.integers(1, 5),
        st.booleans(),
        st.booleans(),
        st.sampled_from(ACTIVATIONS),
        st.sampled_from(targets()),
        st.sampled_from((1, 2)),
        st.integers(0, 2**16),
    )


@settings(max_examples=70)
@given(examples(geometries()))
def test_dense(example: Example) -> None:
    example.check()


@settings(max_examples=20)
@given(examples(geometries(side=14, depthwise=True)))
def test_depthwise(example: Example) -> None:
    example.check()


@pytest.mark.slow
@settings(max_examples=600)
@given(examples(geometries(channels=40, filters=80, side=30)))
def test_dense_more(example: Example) -> None:
    example.check()


@pytest.mark.slow
@settings(max_examples=200)
@given(examples(geometries(side=24, depthwise=True)))
def test_depthwise_more(example: Example) -> None:
    example.check()


def test_convnexts_depthwise() -> None:
    geometry = ConvGeometry(40, 40, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1), 40, (14, 14), (8, 8))
    Example(geometry, 1, True, True, "silu", "llvm", 2, 0).check()


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("depthwise", [False, True])
def test_nan_and_infinity_go_where_they_go_in_pytorch(depthwise: bool, target: str) -> None:
    geometry = ConvGeometry(18, 18, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 18 if depthwise else 1, (9, 8), (8, 8))
    case = conv_case(geometry, 2, bias=True, residual=False, activation="none")
    case.x[0, 3, 2, 2], case.x[1, 5, 7, 7], case.x[1, 17, 0, 0] = torch.nan, torch.inf, -torch.inf
    actual = (run_depthwise if depthwise else run_conv2d)(case, target, 1)
    torch.testing.assert_close(actual, expected(case).float(), rtol=1e-4, atol=1e-4, equal_nan=True)
