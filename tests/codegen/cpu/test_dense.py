"""Dense and depthwise convolution kernels against PyTorch in double precision."""

import pytest
import torch
from hypothesis import given, settings

from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.examples import ConvExample, conv_examples, several
from tests.codegen.kernels import assert_near, conv_case, run_conv2d, run_depthwise, targets
from tests.codegen.strategies import geometries

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
    check(ConvExample(geometry, residual=True, activation="relu", target=target))


def check(example: ConvExample) -> None:
    geometry, case = example.geometry, example.case()
    run = run_depthwise if geometry.groups == geometry.in_channels == geometry.out_channels > 1 else run_conv2d
    assert_near(run(case, example.target, example.threads), case.expected())


@settings(max_examples=5)
@given(several(conv_examples(ConvExample, geometries()), 5))
def test_dense(examples: list[ConvExample]) -> None:
    for example in examples:
        check(example)


@settings(max_examples=2)
@given(several(conv_examples(ConvExample, geometries(side=14, depthwise=True)), 5))
def test_depthwise(examples: list[ConvExample]) -> None:
    for example in examples:
        check(example)


@pytest.mark.slow
@settings(max_examples=600)
@given(conv_examples(ConvExample, geometries(channels=40, filters=80, side=30)))
def test_dense_more(example: ConvExample) -> None:
    check(example)


@pytest.mark.slow
@settings(max_examples=200)
@given(conv_examples(ConvExample, geometries(side=24, depthwise=True)))
def test_depthwise_more(example: ConvExample) -> None:
    check(example)


def test_one_pixel_of_many_filters() -> None:
    # More filters than the first cache holds, and nothing else to do while the next ones come.
    geometry = ConvGeometry(64, 64, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (3, 3), (8, 8))
    check(ConvExample(geometry, 1, residual=True, activation="relu"))


def test_convnexts_depthwise() -> None:
    geometry = ConvGeometry(40, 40, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1), 40, (14, 14), (8, 8))
    check(ConvExample(geometry, 1, residual=True, activation="silu", threads=2))


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("depthwise", [False, True])
def test_nan_and_infinity_go_where_they_go_in_pytorch(depthwise: bool, target: str) -> None:
    geometry = ConvGeometry(18, 18, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 18 if depthwise else 1, (9, 8), (8, 8))
    case = conv_case(geometry, 2, bias=True, residual=False, activation="none")
    case.x[0, 3, 2, 2], case.x[1, 5, 7, 7], case.x[1, 17, 0, 0] = torch.nan, torch.inf, -torch.inf
    actual = (run_depthwise if depthwise else run_conv2d)(case, target, 1)
    torch.testing.assert_close(actual, case.expected().float(), rtol=1e-4, atol=1e-4, equal_nan=True)
