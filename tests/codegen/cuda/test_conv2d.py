"""The dense CUDA convolution, emulated, against PyTorch in double precision, with operands rounded as asked for."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import TILES, GemmTiling, choose_gemm
from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.cuda.kernels import DenseRun, run_conv2d
from tests.codegen.examples import ConvExample, conv_examples
from tests.codegen.kernels import assert_near, conv_case
from tests.codegen.strategies import geometries

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """What the tensor cores make of an operand: TF32 has 10 bits of mantissa, ties away from zero."""
    if precision == "bf16":
        x = x.bfloat16()
    if precision == "tf32":
        x = ((x.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)
    return x.double()


def expected(run: DenseRun) -> Tensor:
    return run.case.expected(partial(rounded, precision=run.precision))


def check(runs: list[DenseRun]) -> None:
    for run, y in zip(runs, run_conv2d(runs), strict=True):
        assert_near(y, expected(run))


# One pixel; sides that no tile divides; three channels, which are copied one by one; whole tiles; conv groups.
CORNERS = [
    ConvGeometry(1, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (8, 8)),
    ConvGeometry(33, 65, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (5, 7), (8, 8)),
    ConvGeometry(16, 64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (8, 8), (8, 8)),
    ConvGeometry(3, 31, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1, (13, 15), (8, 8)),
    ConvGeometry(8, 24, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 2, (9, 9), (8, 8)),
]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_corners(precision: Precision) -> None:
    cases = [conv_case(geometry, 2, bias=True, residual=True, activation="relu") for geometry in CORNERS]
    check([DenseRun(case, GemmTiling(TILES[3]), precision) for case in cases])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_tile(precision: Precision) -> None:
    case = conv_case(CORNERS[2], 3, bias=True, residual=False, activation="none")
    check([DenseRun(case, GemmTiling(tile), precision) for tile in TILES])


def test_a_cut_depth_is_added_up() -> None:
    # More parts than steps: some have nothing to sum.
    cases = [conv_case(geometry, 2, bias=True, residual=True, activation="silu") for geometry in CORNERS[:3]]
    check([DenseRun(case, GemmTiling(TILES[7], splits)) for case in cases for splits in (2, 16)])


def test_nan_and_infinity_go_where_they_go_in_pytorch() -> None:
    geometry = ConvGeometry(20, 18, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (9, 8), (8, 8))
    case = conv_case(geometry, 2, bias=True, residual=False, activation="none")
    case.x[0, 3, 2, 2], case.x[1, 5, 7, 7], case.x[1, 17, 0, 0] = torch.nan, torch.inf, -torch.inf
    run = DenseRun(case, GemmTiling(TILES[3]))
    (y,) = run_conv2d([run])
    torch.testing.assert_close(y, expected(run).float(), rtol=1e-4, atol=1e-4, equal_nan=True)


examples = st.builds(
    DenseRun,
    conv_examples(ConvExample, geometries(side=12), 3).map(ConvExample.case),
    st.builds(GemmTiling, st.sampled_from(TILES), st.sampled_from((1, 1, 2, 5))),
    st.sampled_from(PRECISIONS),
)


@settings(max_examples=2)
@given(st.lists(examples, min_size=5, max_size=5))
def test_generated_convolutions(several: list[DenseRun]) -> None:
    check(several)


@pytest.mark.slow
@settings(max_examples=80)
@given(st.lists(examples, min_size=5, max_size=5))
def test_generated_convolutions_more(several: list[DenseRun]) -> None:
    check(several)


def test_small_images_are_cut_along_the_depth_and_large_ones_not() -> None:
    _, small = choose_gemm(49, 512, 4608, 1, 132, "fp32")
    _, large = choose_gemm(32 * 56 * 56, 64, 576, 1, 132, "fp32")
    assert small.splits > 1 and large.splits == 1
    assert large.tile.rows * large.tile.columns >= 128 * 64


def test_the_tensor_cores_spill_less_and_take_larger_tiles() -> None:
    for rows, columns, depth in ((32 * 14 * 14, 256, 2304), (196, 256, 2304), (49, 512, 4608)):
        cuda_cores, tensor_cores = (choose_gemm(rows, columns, depth, 1, 132, each)[1] for each in ("fp32", "tf32"))
        assert tensor_cores.splits <= cuda_cores.splits
        assert tensor_cores.tile.rows * tensor_cores.tile.columns >= cuda_cores.tile.rows * cuda_cores.tile.columns
